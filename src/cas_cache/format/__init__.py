"""The format on disk as code, without I/O: names, manifests, markers, row digests, signatures and Zarr metadata."""

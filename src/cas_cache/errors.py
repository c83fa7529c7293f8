"""The one error tree. Every message says what happened and what to do next.

::

    CasCacheError
    |- IdentityError (ValueError)         the origin of a vector is not known well enough
    |  |- UnpinnedModel                   a model without a revision that pins its weights
    |  |- CredentialInSpec                an encoder spec that would hold a token, a password or a key
    |  `- InvalidItem                     a text or row that has no key (a lone surrogate, an unknown field)
    |- EncoderError                       the encoder's output cannot be stored
    |  |- InvalidEncoderOutput (ValueError)  wrong number of rows, not an array, object dtype
    |  |  `- UnsupportedEncoderOutput      sparse vectors, or vectors of several shapes: valid, but not one row per item
    |  `- ShapeMismatch (ValueError)      dtype or row shape differ from the namespace's
    |- SelfCheckFailed (ValueError)       vectors of the cache differ from the encoder's
    |- SelfCheckTooLarge (ValueError)     more rows than max_self_check would have to be compared
    |- CacheMiss (KeyError)               only_cached=True and a row is not in the cache
    |- MirrorError                        the local side
    |  |- NotAMirror (ValueError)         the directory holds something else
    |  |- DamagedMirror                   local files differ from what was committed
    |  |  `- LinkInMirror                 a symbolic link in place of a file or folder of a mirror
    |  |- MirrorReadError (OSError)       the system refuses a read now; nothing is known to be damaged
    |  |- MirrorWriteError (OSError)      the disk is full or a write fails
    |  |- RepositoryMismatch (ValueError) the mirror belongs to another repository
    |  `- UntrustedMirror (ValueError)    the mirror was filled with packs that are not trusted
    |- RepositoryError                    the remote holds something unexpected
    |  |- NotARepository (ValueError)     the prefix holds something else
    |  |- DamagedPack                     an object of a pack fails verification
    |  |  `- UnreadablePack               an object of a pack cannot be read, but others can
    |  |- UntrustedPack                   a pack is not signed by a trusted key
    |  `- IncompleteListing               a listing lacks objects that are known to exist
    |- UnsupportedFormat                  written by a newer version of the format
    |- RemoteError (OSError)              the remote is unreachable or refuses a request; rows stay pending
    |  |- RemoteUnavailable (ConnectionError)
    |  |- AccessDenied (PermissionError)
    |  |- BucketNotFound (FileNotFoundError)
    |  `- ObjectNotFound (FileNotFoundError)
    |- AlreadyClosed (ValueError)         a cache, mirror or namespace is used after its close()
    `- ConfigurationError (ValueError)
       |- InvalidURL
       `- MissingDependency (ImportError) an extra is not installed

There are two warnings. `RemoteWarning` means that a run continues without its remote. `DataWarning` means that
something was not stored in, or not read into, the cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from typing import Any

_Error = TypeVar("_Error", bound=BaseException)
_OwnError = TypeVar("_OwnError", bound="CasCacheError")


def printable(text: str) -> str:
    """Return a text that is safe to print, because messages quote names and documents that others wrote.

    Control characters, lone surrogates and characters that change the direction of text become Python escapes; line
    feeds and tabs stay.
    """
    if text.isprintable():
        return text
    text = from_locale(text)
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def from_locale(text: str) -> str:
    """Return a text with characters that the locale could not decode as UTF-8, such as arguments under ``LC_ALL=C``.

    Python keeps their bytes as lone surrogates. A text with other bytes is returned unchanged.
    """
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        return text


def as_cause(err: _Error) -> _Error:
    """Return an error that was thrown into a `contextmanager`, ready to be a cause without a reference cycle.

    Its traceback begins with the frame of the generator. Since Python 3.12 that frame leads to the one in contextlib
    that holds the error, and only the garbage collector would free what all frames below hold.
    """
    traceback = err.__traceback__
    return err if traceback is None else err.with_traceback(traceback.tb_next)


def set_aside(folder: object) -> str:
    """Return advice on a damaged folder of a mirror: never delete it, because it may hold the only copy."""
    return (
        f"Move {folder} out of the mirror, and keep it: rows that were not pushed may be nowhere else. What was pushed "
        "comes back with `cas-cache pull`; the rest is encoded again."
    )


class CasCacheError(Exception):
    """Base of all errors that this package raises on purpose."""

    def __str__(self) -> str:
        # KeyError prints the repr of its argument, and OSError may print nothing: make the message the same everywhere.
        return printable(str(self.args[0])) if self.args else type(self).__name__

    def __reduce__(self) -> tuple[Any, ...]:
        # By default, unpickling calls the class with `args` only, which fails for classes with keyword-only arguments.
        # A process pool then loses its worker, and multiprocessing.Pool waits forever.
        return _restored, (type(self), self.args), vars(self).copy()


def _restored(cls: type[_OwnError], args: tuple[Any, ...]) -> _OwnError:
    """Return an error of a class without calling its constructor; its attributes follow as the state."""
    error = cls.__new__(cls, *args)
    super(CasCacheError, error).__init__(*args)
    return error


class IdentityError(CasCacheError, ValueError):
    """The identity of an encoder or an item is not known well enough to cache under it."""


class UnpinnedModel(IdentityError):
    """A model name or revision does not pin the weights."""


class CredentialInSpec(IdentityError):
    """An encoder spec holds a credential, which everybody who can read the cache could read.

    Attributes:
        places: Places of the credentials, such as ``params['api_key']``; never their values.
    """

    def __init__(self, message: str, *, places: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.places = places


class InvalidItem(IdentityError):
    """An item has no key."""


class EncoderError(CasCacheError):
    """The encoder's output cannot be stored."""


class InvalidEncoderOutput(EncoderError, ValueError):
    """The encoder's output is not an array, or does not have one row per item."""


class ShapeMismatch(EncoderError, ValueError):
    """dtype or row shape differ from those of the namespace."""


class UnsupportedEncoderOutput(InvalidEncoderOutput):
    """The encoder's vectors are valid but not one array: they are sparse, or differ in shape."""


class SelfCheckFailed(CasCacheError, ValueError):
    """Vectors of the cache differ from the encoder's: other weights, or other settings, under the same name.

    Attributes:
        spec: The `EncoderSpec` of the vectors.
        rows: The mirror's rows that differ.
        packs: Ids of the packs that these rows came from.
        distance: The largest distance, |a - b| / max(|a|, |b|); 0 for equal vectors.
        attributes: Paths of the encoder's attributes that differ from those of the encoder that made the rows.
    """

    def __init__(
        self,
        message: str,
        *,
        spec: object,
        rows: tuple[int, ...],
        packs: tuple[str, ...],
        distance: float,
        attributes: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.spec = spec
        self.rows = rows
        self.packs = packs
        self.distance = distance
        self.attributes = attributes


class SelfCheckTooLarge(CasCacheError, ValueError):
    """Comparing one row of each unverified pack takes more rows than ``max_self_check`` allows.

    Attributes:
        rows: Number of rows that would have to be encoded again.
        limit: Maximum number of rows.
    """

    def __init__(self, message: str, *, rows: int, limit: int) -> None:
        super().__init__(message)
        self.rows = rows
        self.limit = limit


class CacheMiss(CasCacheError, KeyError):
    """Rows are not in the cache: ``only_cached=True`` forbids encoding them, or `get` has no NaN for whole numbers.

    Attributes:
        positions: Positions of the first missing items in the caller's input (at most 10).
        missing: Number of missing items.
    """

    def __init__(self, message: str, *, positions: tuple[int, ...] = (), missing: int = 0) -> None:
        super().__init__(message)
        self.positions = positions
        self.missing = missing


class MirrorError(CasCacheError):
    """An error of the local side."""


class NotAMirror(MirrorError, ValueError):
    """The directory holds something other than a mirror."""


class DamagedMirror(MirrorError):
    """Local files do not hold what was committed."""


class LinkInMirror(DamagedMirror):
    """A symbolic link is in the place of a file or folder of a mirror; it is not followed."""


class MirrorReadError(MirrorError, OSError):
    """A local file cannot be read now, for a temporary reason; it is not known to be damaged."""


class MirrorWriteError(MirrorError, OSError):
    """The local disk is full or a write fails; everything committed before is intact."""


class RepositoryMismatch(MirrorError, ValueError):
    """The mirror is bound to another repository."""


class UntrustedMirror(MirrorError, ValueError):
    """The mirror was filled under a `trust` setting that does not allow the requested one."""


class RepositoryError(CasCacheError):
    """The remote holds something unexpected."""


class NotARepository(RepositoryError, ValueError):
    """The prefix is not empty and does not hold a repository."""


class UnsupportedFormat(CasCacheError):
    """Data was written in a newer version of the format."""


class DamagedPack(RepositoryError):
    """An object of a pack is missing or fails verification.

    Attributes:
        pack: The pack's id.
    """

    def __init__(self, message: str, *, pack: str) -> None:
        super().__init__(message)
        self.pack = pack


class UnreadablePack(DamagedPack):
    """The storage refuses an object of a pack but not others; the rows are misses, as if the pack were damaged."""


class UntrustedPack(RepositoryError):
    """A pack is not signed by a trusted key, so it is skipped.

    Attributes:
        pack: The pack's id.
        reason: Reason why it is not trusted.
    """

    def __init__(self, message: str, *, pack: str, reason: str) -> None:
        super().__init__(message)
        self.pack = pack
        self.reason = reason


class IncompleteListing(RepositoryError):
    """A listing lacks objects that are known to exist; it is not taken for an empty repository."""


class RemoteError(CasCacheError, OSError):
    """The remote is unreachable or refuses a request."""


class RemoteUnavailable(RemoteError, ConnectionError):
    """The remote gave no answer, or a server error, after the file system's own retries."""


class AccessDenied(RemoteError, PermissionError):
    """Credentials are missing, wrong or expired, or lack a permission."""


class BucketNotFound(RemoteError, FileNotFoundError):
    """The bucket (container) of the URL does not exist."""


class ObjectNotFound(RemoteError, FileNotFoundError):
    """An object does not exist."""


class AlreadyClosed(CasCacheError, ValueError):
    """A cache, mirror or namespace is used after its `close`."""


class ConfigurationError(CasCacheError, ValueError):
    """A setting or argument cannot work."""


class InvalidURL(ConfigurationError):
    """A remote is not a URL of a file system."""


class MissingDependency(ConfigurationError, ImportError):
    """A package that this feature needs is not installed."""

    @classmethod
    def of_package(cls, feature: str, package: str) -> MissingDependency:
        """Return the error for a package of PyPI; its command works however cas_cache itself was installed."""
        return cls(f"{feature} needs {package}, which is not installed. Do: pip install {package}")


class RemoteWarning(UserWarning):
    """The run continues without its remote."""


class DataWarning(UserWarning):
    """Something was not stored in the cache, or not read into it."""

"""``cas-cache keys``: the keys that sign packs, and those that are trusted."""

from __future__ import annotations

import click

from cas_cache.cli.commands import Command, CommandGroup
from cas_cache.cli.options import json_option
from cas_cache.cli.output import print_json, say
from cas_cache.config.keyring import new_signing_key, signing_keys
from cas_cache.config.settings import Settings, user_file
from cas_cache.display import visible


@click.group(cls=CommandGroup, examples=("cas-cache keys new alice", "cas-cache keys list"))
def keys() -> None:
    """Make the keys that sign packs, and list those that sign and those that are trusted."""


@keys.command(cls=Command, examples=("cas-cache keys new alice",))
@click.argument("name")
@json_option
def new(name: str, *, as_json: bool) -> None:
    """Make a signing key called NAME, in a file that only you may read.

    What is printed is its public key: that is for everybody who shall trust what you push.
    """
    key = new_signing_key(name)
    if as_json:
        print_json({"name": key.name, "public": key.public, "file": str(key.file)})
        return
    say(key.public)
    say(f'To sign what you push:            signing_key = "{key.name}"', err=True)
    say(f'For those who shall trust it:     trusted_keys.{key.name} = "{key.public}"', err=True)
    say(f"Both are settings, in {user_file()} for example. The private key is {key.file}.", err=True)


@keys.command("list", cls=Command, examples=("cas-cache keys list", "cas-cache keys list --json"))
@json_option
def list_(*, as_json: bool) -> None:
    """List the signing keys that are kept here, and the public keys that the settings trust."""
    settings = Settings.read()
    mine = signing_keys()
    names = {key.public: key.name for key in mine}
    trusted = {public: name for name, public in settings.trusted_keys.items()}
    documents = [
        {
            "name": trusted.get(public) or names[public],
            "public": public,
            "signing": public in names,
            "trusted": public in trusted,
        }
        for public in sorted({*names, *trusted}, key=lambda key: (trusted.get(key) or names[key], key))
    ]
    if as_json:
        print_json({"trust": settings.trust, "signing_key": settings.signing_key, "keys": documents})
        return
    say(f"trust        {settings.trust}")
    say(f"signing key  {settings.signing_key or '-'}")
    for key in documents:
        uses = [name for name in ("signing", "trusted") if key[name]]
        say(f"{visible(str(key['name'])):<12} {key['public']}  {' '.join(uses)}")

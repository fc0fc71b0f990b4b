"""Where the lake is: a folder or a bucket that can be listed, written, read and cleared up, by us alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from fibflow.io.checkup.amazon import asking, code_of
from fibflow.io.checkup.findings import Finding, Wrong, failed, ok, warning
from fibflow.io.checkup.site import Site
from fibflow.io.storage import LakeError, Storage

#: The folder of the lake in which a small file is written, and taken away.
FOLDER = "_doctor"
_CONTENT = b"written by pipelines.doctor, which should have taken it away\n"
#: Less free space than this is worth a look, and too little for a day's commits.
WARNS_BYTES, FAILS_BYTES = 10_000_000_000, 1_000_000_000
_ALL = ("/AllUsers", "/AuthenticatedUsers")


def folder(site: Site) -> Iterator[Finding]:
    """Look at a lake in a folder."""
    place = Storage(str(site.lake))
    path = Path(place.base)
    if not path.is_dir():
        raise Wrong(
            f"there is no folder {path}", "correct --lake; pipelines.load or pipelines.stream makes a lake"
        )
    _tried(site, place)
    yield ok("lake folder", f"{path} is there, and can be written and read")
    usage = site.disk(str(path))
    free = f"{usage.free / 1e9:,.1f} GB of {usage.total / 1e9:,.0f} GB are free"
    advice = "make room: pipelines.inspect vacuum, then a larger disk"
    if usage.free < FAILS_BYTES:
        yield failed("lake disk", free, advice)
    elif usage.free < WARNS_BYTES:
        yield warning("lake disk", free, advice)
    else:
        yield ok("lake disk", free)


def bucket(site: Site) -> Iterator[Finding]:
    """Look at a lake in a bucket."""
    place = Storage(str(site.lake), site.aws_of())
    name = place.base.partition("/")[0]
    client = site.client("s3")
    region = client.meta.region_name
    try:
        told = client.head_bucket(Bucket=name)
    except ClientError as error:
        # A HEAD has no body, and so no code but the status.
        code = code_of(error)
        where = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region")
        if where and where != region:
            raise Wrong(_elsewhere(name, where, region), f"set AWS_REGION to {where}") from None
        if code in ("404", "NoSuchBucket"):
            raise Wrong(f"there is no bucket {name}", "correct --lake, or the account") from None
        if code in ("403", "AccessDenied"):
            raise Wrong(
                f"bucket {name}: access is denied",
                "allow these credentials s3:ListBucket on it, or correct its name",
            ) from None
        with asking(f"bucket {name}", "s3:ListBucket"):
            raise
    where = told.get("BucketRegion") or told["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region")
    if where and where != region:
        raise Wrong(_elsewhere(name, where, region), f"set AWS_REGION to {where}")
    _tried(site, place)
    yield ok("bucket", f"{name} in {region} can be listed, written, read and cleared up")
    yield _openness(client, name)


def _elsewhere(name: str, where: str, region: str) -> str:
    return f"bucket {name} is in {where}, and the region that is set is {region}"


def _tried(site: Site, place: Storage) -> None:
    """Write a file as commits do, read it back, list it, and take it away.

    Raises:
        Wrong, LakeError: it cannot be.
    """
    token = site.new_token()
    name = f"{FOLDER}/{token}"
    try:
        made = place.put_if_absent(name, _CONTENT, token)
        again = place.put_if_absent(name, b"", token)
        read = place.read(name)
        listed = token in place.names(FOLDER)
    except LakeError:
        with suppress(Exception):
            _taken_away(site, place, name)
        raise
    try:
        _taken_away(site, place, name)
    except (ClientError, OSError) as error:
        why = code_of(error) if isinstance(error, ClientError) else error
        raise Wrong(
            f"{place.uri}/{name} cannot be deleted ({why})",
            "allow s3:DeleteObject (of a folder: writing it), and delete it",
        ) from None
    if not made or again or read != _CONTENT:
        raise Wrong(
            f"{place.uri} does not keep the first of two files of one name",
            "use a store that knows conditional writes: two writers would lose each other's commits here",
        )
    if not listed:
        raise Wrong(f"{place.uri} does not list a file that was just written", "use a store that does")


def _taken_away(site: Site, place: Storage, name: str) -> None:
    if place.is_s3:
        bucket_name, _, key = place.path(name).partition("/")
        site.client("s3").delete_object(Bucket=bucket_name, Key=key)
        return
    path = Path(place.path(name))
    path.unlink(missing_ok=True)
    # Somebody else's look may be under way in it.
    with suppress(OSError):
        path.parent.rmdir()


def _openness(client: Any, name: str) -> Finding:
    """Return whether strangers can read a bucket, as far as these credentials may see."""
    check, block = "bucket: public", None
    unseen = []
    try:
        block = client.get_public_access_block(Bucket=name)["PublicAccessBlockConfiguration"]
        if all(block.get(part) for part in ("IgnorePublicAcls", "RestrictPublicBuckets")):
            return ok(check, "public access is blocked")
    except ClientError as error:
        if code_of(error) != "NoSuchPublicAccessBlockConfiguration":
            unseen.append("s3:GetBucketPublicAccessBlock")
    close = "block it: aws s3api put-public-access-block"
    try:
        grants = client.get_bucket_acl(Bucket=name)["Grants"]
        if any(str(each["Grantee"].get("URI", "")).endswith(_ALL) for each in grants):
            return failed(check, f"anybody may use bucket {name}, by its access control list", close)
    except ClientError:
        unseen.append("s3:GetBucketAcl")
    try:
        if client.get_bucket_policy_status(Bucket=name)["PolicyStatus"]["IsPublic"]:
            return failed(check, f"anybody may use bucket {name}, by its policy", close)
    except ClientError as error:
        if code_of(error) != "NoSuchBucketPolicy":
            unseen.append("s3:GetBucketPolicyStatus")
    if unseen:
        return warning(
            check,
            f"whether bucket {name} is public cannot be seen",
            f"allow {', '.join(unseen)}, or look yourself",
        )
    return warning(check, f"bucket {name} is not public, and nothing keeps it so", close)

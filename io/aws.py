"""The one resolver of AWS credentials, region and endpoints, for boto3, pyarrow, Delta and Beam alike."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import pyarrow.fs as pafs

SERVICES = ("s3", "kinesis", "dynamodb", "sns", "sts")

# Each cause with the spellings that pyarrow, boto3 and Delta's object store give it.
_CAUSES = (
    (r"NO_SUCH_BUCKET|NoSuchBucket", "there is no such bucket: check its name and the account"),
    (
        r"HTTP status 301|PermanentRedirect|AuthorizationHeaderMalformed|IllegalLocationConstraint",
        "the bucket is in another region: set AWS_REGION to the bucket's",
    ),
    (r"EXPIRED_TOKEN|ExpiredToken", "the AWS session has expired: log in again"),
    (
        r"INVALID_ACCESS_KEY_ID|InvalidAccessKeyId|SIGNATURE_DOES_NOT_MATCH|SignatureDoesNotMatch|InvalidToken"
        r"|INVALID_CLIENT_TOKEN_ID|UNRECOGNIZED_CLIENT",
        "AWS refuses these keys: check AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    ),
    (
        r"ACCESS_DENIED|AccessDenied|HTTP status 403|Forbidden",
        "access is denied: these credentials need s3:ListBucket and s3:GetObject (s3:PutObject to write)",
    ),
    (
        r"NETWORK_CONNECTION|curlCode|REQUEST_TIMEOUT|EndpointConnectionError|[Cc]ould not connect"
        r"|error sending request",
        "the S3 endpoint cannot be reached: check the network, AWS_ENDPOINT_URL and AWS_REGION",
    ),
)


class AwsError(Exception):
    """AWS cannot be used as it is set up. The message is one line that says what to do."""


@dataclass(frozen=True)
class AwsConfig:
    """Where AWS is and who we are to it. Picklable; no secret shows in ``repr``.

    Attributes:
        region: Name of the region; None where nothing names one.
        endpoint_url: Endpoint of every service, e.g. an emulator's; None for AWS's own.
        access_key_id: Key; None where no credentials were found.
        secret_access_key: Secret of the key.
        session_token: Token of temporary credentials.
        profile: Profile that was asked for by name.
        service_endpoints: Pairs (service, URL) that go before ``endpoint_url``.
        rotating: The keys are a role's and expire. They are looked up anew at each use, where the process has
            the role too, and otherwise used as they were at the time of ``resolve``.
    """

    region: str | None = None
    endpoint_url: str | None = None
    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    profile: str | None = None
    service_endpoints: tuple[tuple[str, str], ...] = ()
    rotating: bool = False

    @classmethod
    def resolve(
        cls,
        env: Mapping[str, str] = os.environ,
        endpoint_url: str | None = None,
        region: str | None = None,
        profile: str | None = None,
    ) -> AwsConfig:
        """Look everything up in boto3's standard order: arguments, then ``env``, then the profile's files.

        Call it only where AWS is used: on a machine without credentials the search asks the metadata service.

        Args:
            env: Environment variables. A mapping other than ``os.environ`` is all there is: only it
                and the files it names (AWS_CONFIG_FILE, AWS_SHARED_CREDENTIALS_FILE) are read, never the
                machine's role.
            endpoint_url: Endpoint for every service.
            region: Region.
            profile: Profile; goes before keys in ``env``.

        Raises:
            AwsError: The profile does not exist, or half of a credential is missing.
        """
        import botocore.exceptions
        from botocore.configprovider import ConfiguredEndpointProvider

        try:
            session = _session(env, profile)
            scoped = session.get_scoped_config()
            keys, rotating = _credentials(env, profile, session)
            endpoints = {}
            if endpoint_url is None and env.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() != "true":
                for service in SERVICES:
                    provider = ConfiguredEndpointProvider(session.full_config, scoped, service, environ=env)
                    if url := provider.provide():
                        endpoints[service] = url
        except botocore.exceptions.ProfileNotFound as error:
            raise AwsError(f"{error}: set AWS_PROFILE to a profile that exists") from error
        except (botocore.exceptions.BotoCoreError, RuntimeError) as error:  # RuntimeError: expired for good
            raise AwsError(f"AWS credentials cannot be read: {_one_line(error)}") from error
        for url in (endpoint_url, *endpoints.values()):
            _check_url(url)
        shared = endpoint_url
        if endpoints and len(endpoints) == len(SERVICES) and len(set(endpoints.values())) == 1:
            shared = endpoints.popitem()[1]
            endpoints = {}
        found = region or env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or scoped.get("region")
        if not found and (shared or "s3" in endpoints):
            found = "us-east-1"  # emulators take any, but a signature needs one
        return cls(
            region=found,
            endpoint_url=shared,
            access_key_id=keys[0],
            secret_access_key=keys[1],
            session_token=keys[2],
            profile=profile,
            service_endpoints=tuple(sorted(endpoints.items())),
            rotating=rotating,
        )

    def endpoint_for(self, service: str) -> str | None:
        """Return the endpoint of a service (``s3``, ``kinesis``, ...), None for AWS's own."""
        return dict(self.service_endpoints).get(service, self.endpoint_url)

    def current(self) -> AwsConfig:
        """Return the configuration with keys that are valid now: itself, unless they are a role's."""
        if not self.rotating:
            return self
        credentials = _role_credentials(self.profile)
        if credentials is None:
            return self
        keys = credentials.get_frozen_credentials()
        return replace(
            self, access_key_id=keys.access_key, secret_access_key=keys.secret_key, session_token=keys.token
        )

    def boto3_client(self, service: str, config: Any = None) -> Any:
        """Return a boto3 client of a service.

        Args:
            service: ``s3``, ``kinesis``, ...
            config: a ``botocore.config.Config``: its timeouts and retries; None for boto3's own.

        Raises:
            AwsError: No credentials, or no region.
        """
        import boto3

        region, key, secret, token = self._usable()
        endpoint = self.endpoint_for(service)
        if self.rotating and _role_credentials(self.profile) is not None:
            # The session renews the role's keys for as long as the client lives.
            session = boto3.session.Session(profile_name=self.profile)
            return session.client(service, region_name=region, endpoint_url=endpoint, config=config)
        return boto3.session.Session().client(
            service,
            region_name=region,
            endpoint_url=endpoint,
            config=config,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            aws_session_token=token,
        )

    def pyarrow_filesystem(self) -> pafs.S3FileSystem:
        """Return pyarrow's S3 filesystem.

        A role's keys in it do not renew: make a new one for each piece of work.

        Raises:
            AwsError: No credentials, or no region.
        """
        region, key, secret, token = self._usable()
        options: dict[str, Any] = {}
        if endpoint := self.endpoint_for("s3"):
            url = urlsplit(endpoint)
            options = {"scheme": url.scheme, "endpoint_override": url.netloc}
        return pafs.S3FileSystem(
            access_key=key,
            secret_key=secret,
            session_token=token,
            region=region,
            connect_timeout=10,
            request_timeout=60,
            **options,
        )

    def delta_storage_options(self) -> dict[str, str]:
        """Return the options of Delta's object store.

        Commits are conditional puts, so of two writers of one version one loses, without a lock table.

        Raises:
            AwsError: No credentials, or no region.
        """
        region, key, secret, token = self._usable()
        options = {
            "aws_region": region,
            "aws_access_key_id": key,
            "aws_secret_access_key": secret,
            "aws_conditional_put": "etag",
        }
        if token:
            options["aws_session_token"] = token
        if endpoint := self.endpoint_for("s3"):
            options["aws_endpoint"] = endpoint
            options["aws_allow_http"] = str(endpoint.startswith("http:")).lower()
        return options

    def beam_options(self) -> dict[str, str]:
        """Return the keyword arguments of Beam's ``S3Options``. They hold secrets: do not log them.

        A role's keys are left out, so that each worker finds (and renews) its own, unless a profile was asked
        for.

        Raises:
            AwsError: No credentials, or no region.
        """
        region, key, secret, token = self._usable()
        options: dict[str, str | None] = {
            "s3_region_name": region,
            "s3_endpoint_url": self.endpoint_for("s3"),
        }
        if not self.rotating or self.profile:
            options |= {"s3_access_key_id": key, "s3_secret_access_key": secret, "s3_session_token": token}
        return {name: value for name, value in options.items() if value}

    def _usable(self) -> tuple[str, str, str, str | None]:
        """Return region, key, secret and token, or say what is missing."""
        now = self.current()
        if not now.access_key_id or not now.secret_access_key:
            raise AwsError(
                "no AWS credentials found: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        if not now.region:
            raise AwsError("no AWS region found: set AWS_REGION to the bucket's region")
        return now.region, now.access_key_id, now.secret_access_key, now.session_token


def explain_s3_error(error: BaseException, uri: str) -> str:
    """Return one line that says what went wrong at ``uri`` and what to do, whichever client raised."""
    text = str(error)
    for pattern, advice in _CAUSES:
        if re.search(pattern, text):
            return f"{uri}: {advice}"
    return f"{uri}: {_one_line(error)}"


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _check_url(url: str | None) -> None:
    if url is not None and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc):
        raise AwsError(f"{url!r} is no endpoint: write it as http://host:port or https://host")


def _session(env: Mapping[str, str], profile: str | None) -> Any:
    """Return a botocore session on ``env``."""
    import botocore.session

    session = botocore.session.Session(profile=profile)
    if env is not os.environ:
        session.set_config_variable(
            "profile", profile or env.get("AWS_PROFILE") or env.get("AWS_DEFAULT_PROFILE")
        )
        for name, variable in (
            ("config_file", "AWS_CONFIG_FILE"),
            ("credentials_file", "AWS_SHARED_CREDENTIALS_FILE"),
        ):
            session.set_config_variable(name, env.get(variable, os.devnull))
    return session


def _credentials(
    env: Mapping[str, str], profile: str | None, session: Any
) -> tuple[tuple[str | None, str | None, str | None], bool]:
    """Return (key, secret, token) and whether they expire."""
    from botocore.credentials import EnvProvider, RefreshableCredentials

    if env is os.environ:
        found = session.get_credentials()
    else:
        found = EnvProvider(environ=env).load() if profile is None else None
        if found is None:
            resolver = session.get_component("credential_provider")
            for method in (
                "env",
                "container-role",
                "iam-role",
                "assume-role-with-web-identity",
                "boto-config",
            ):
                resolver.remove(method)
            found = session.get_credentials()
    if found is None:
        return (None, None, None), False
    keys = found.get_frozen_credentials()
    rotating = isinstance(found, RefreshableCredentials) and env is os.environ
    return (keys.access_key, keys.secret_key, keys.token), rotating


@functools.lru_cache(maxsize=8)
def _role_credentials(profile: str | None) -> Any:
    """Return this process's credentials, which renew themselves, or None where it has none."""
    from botocore.exceptions import BotoCoreError

    try:
        return _session(os.environ, profile).get_credentials()
    except BotoCoreError:
        return None

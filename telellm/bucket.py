"""The store in an S3 bucket: MinIO, Ceph, SeaweedFS, or any other.

Credentials come from the environment (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`) or a mounted credentials file
(`AWS_SHARED_CREDENTIALS_FILE`); the server is `AWS_ENDPOINT_URL`, its private CA `AWS_CA_BUNDLE`. Work waits
`TELELLM_STORE_PATIENCE` seconds for a server that is away; opening a store waits only where that is set.
"""

import io
import os
import ssl
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from telellm.store import MANIFEST, PARALLEL_TRANSFERS, InvalidStore, Store, StoreUnavailable, inside

if TYPE_CHECKING:
    from minio import Minio

T = TypeVar("T")
PATIENCE_SECONDS = 60.0
LONGEST_PAUSE_SECONDS = 5.0
CERTIFICATE_EXPIRED = 10
"""OpenSSL's `X509_V_ERR_CERT_HAS_EXPIRED`."""
BUSY = (
    *("InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "SlowDownRead", "SlowDownWrite"),
    *("XMinioServerNotInitialized", "XMinioReadQuorum", "XMinioWriteQuorum", "OperationAborted"),
    "ConditionalRequestConflict",
)
"""What a server answers while it starts, stops or has too much to do."""


class BucketStore(Store):
    """A store in an S3 bucket: MinIO, Ceph, SeaweedFS, or any other."""

    def __init__(self, uri: str, bucket: str, prefix: str) -> None:
        super().__init__(uri.rstrip("/"))
        self.bucket, self.prefix = bucket, prefix
        self._keeps_conditions = False
        self.patience = float(os.environ.get("TELELLM_STORE_PATIENCE") or 0)
        with self._reached():
            self.client = _client()
        if not self._ask(self._bucket_exists):
            raise StoreUnavailable(f"store: {uri}: there is no bucket {bucket}; create it, or name another one")
        self.patience = self.patience or PATIENCE_SECONDS

    def _bucket_exists(self) -> bool:
        from minio.error import S3Error

        try:
            return self.client.bucket_exists(self.bucket)
        except S3Error as error:
            if error.code != "AccessDenied":
                raise
            # an answer to HEAD has no body: the answer to this says whether it is the key, the secret or the rights
            next(iter(self.client.list_objects(self.bucket, prefix=f"{self.prefix}/")), None)
            return True

    def _ask(self, work: Callable[[], T]) -> T:
        """Do work with the server; waits for one that is away. Every request may be made again."""
        deadline, pause = time.monotonic() + self.patience, 0.25
        while True:
            try:
                with self._reached():
                    return work()
            except StoreUnavailable as error:
                if not error.passing or time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{inside(key)}".strip("/")

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Turn what the client raises into what a person can act on."""
        from minio.error import MinioException, S3Error
        from urllib3.exceptions import HTTPError

        try:
            yield
        except S3Error as error:
            if error.code in ("NoSuchKey", "NoSuchObject"):
                raise FileNotFoundError(error.object_name) from None
            remedy = {
                "AccessDenied": "give the user of AWS_ACCESS_KEY_ID the right to list, read, write and delete there",
                "InvalidAccessKeyId": "check AWS_ACCESS_KEY_ID",
                "SignatureDoesNotMatch": "check AWS_SECRET_ACCESS_KEY and this machine's clock",
                "XMinioStorageFull": "the server is full: make room there",
            }.get(error.code or "", "see the server's log")
            said = f"store: {self.uri}: {error.code}: {error.message}; {remedy}"
            raise StoreUnavailable(said, passing=error.code in BUSY) from error
        except (InvalidStore, StoreUnavailable):
            raise
        except ValueError as error:
            raise InvalidStore(f"store: {self.uri}: {error}; write s3://bucket/prefix") from error
        except (HTTPError, MinioException) as error:
            raise _unreached(self.uri, error) from error

    def read(self, key: str) -> bytes:
        """Return an object."""

        return self._ask(lambda: self._read_with_tag(key)[0])

    def write(self, key: str, data: bytes) -> None:
        """Write a small object."""
        self._ask(lambda: self.client.put_object(self.bucket, self._key(key), io.BytesIO(data), len(data)))

    def swap(self, key: str, expected: bytes | None, data: bytes) -> bool:
        """Write a small object if it is `expected` still, by `If-Match` and `If-None-Match`.

        Raises `StoreUnavailable` for a server that does not look at these headers: two writers could both win there.
        """
        if not self._keeps_conditions:
            self._ask(self._try_conditions)
            self._keeps_conditions = True

        tried = False

        def work() -> bool:
            nonlocal tried
            found, tag = self._find(key)
            if found != expected:
                return tried and found == data  # an answer was lost: the request before this one did it
            tried = True
            name, value = ("If-None-Match", "*") if expected is None else ("If-Match", tag)
            return self._put_if(key, data, name, value) or self._find(key)[0] == data

        return self._ask(work)

    def _put_if(self, key: str, data: bytes, condition: str, value: str) -> bool:
        """Write an object under a condition; says whether it held. The client's own methods take no conditions."""
        from minio.error import S3Error

        try:
            self.client._put_object(self.bucket, self._key(key), data, headers={condition: value})
        except S3Error as error:
            if error.code not in ("PreconditionFailed", "NoSuchKey"):
                raise
            return False
        return True

    def _try_conditions(self) -> None:
        """Raise `StoreUnavailable` where the server writes although a condition does not hold."""
        from minio.error import S3Error

        key = f"checks/{uuid.uuid4().hex}"
        try:
            kept = self._put_if(key, b"1", "If-None-Match", "*")
            kept = kept and not self._put_if(key, b"2", "If-None-Match", "*")
            kept = kept and not self._put_if(key, b"3", "If-Match", f'"{uuid.uuid4().hex}"')
        except S3Error as error:
            if error.code != "NotImplemented":
                raise
            kept = False
        finally:
            self.client.remove_object(self.bucket, self._key(key))
        if not kept:
            raise StoreUnavailable(
                f"store: {self.uri}: the server does not keep conditions of writes (If-Match, If-None-Match), so two "
                "runs at once could both put their model into production; use a server that does, such as a current "
                "MinIO, Ceph, SeaweedFS or AWS S3"
            )

    def _find(self, key: str) -> tuple[bytes | None, str]:
        """Return an object and its entity tag, or None where there is none."""
        from minio.error import S3Error

        try:
            return self._read_with_tag(key)
        except S3Error as error:
            if error.code != "NoSuchKey":
                raise
            return None, ""

    def _read_with_tag(self, key: str) -> tuple[bytes, str]:
        response = self.client.get_object(self.bucket, self._key(key))
        try:
            return bytes(response.read()), response.headers["ETag"]
        finally:
            response.close()
            response.release_conn()

    def upload(self, key: str, path: Path) -> None:
        """Write an object from a file, in parallel parts where it is large."""
        self._ask(lambda: self.client.fput_object(self.bucket, self._key(key), str(path), num_parallel_uploads=4))

    def download(self, key: str, path: Path) -> None:
        """Write an object to a file."""
        temporary = path.with_name(f"{path.name}.part")
        try:
            self._ask(
                lambda: self.client.fget_object(self.bucket, self._key(key), str(path), tmp_file_path=str(temporary))
            )
        finally:
            temporary.unlink(missing_ok=True)

    def copy(self, key: str, target: str) -> None:
        """Have the server copy an object."""
        from minio.commonconfig import CopySource

        source = CopySource(self.bucket, self._key(key))
        self._ask(lambda: self.client.copy_object(self.bucket, self._key(target), source))

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the keys under a folder, sorted."""
        for key, _ in self.stamps(prefix):
            if key != prefix:
                yield key

    def stamps(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Yield keys and entity tags; `prefix` may be one object."""

        def work() -> list[tuple[str, str]]:
            found = sorted((key, str(entry.etag)) for key, entry in self._entries(prefix))
            if not found and prefix and self.exists(prefix):
                return [(prefix, str(self.client.stat_object(self.bucket, self._key(prefix)).etag))]
            return found

        yield from self._ask(work)

    def sizes(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield keys and sizes."""
        yield from self._ask(lambda: sorted((key, entry.size or 0) for key, entry in self._entries(prefix)))

    def _entries(self, prefix: str) -> Iterator[tuple[str, Any]]:
        """Yield the keys under a folder, each with what the server says of it; not patient."""
        start = len(self.prefix) + 1 if self.prefix else 0
        folder = self._key(prefix) + "/" if self._key(prefix) else ""
        for entry in self.client.list_objects(self.bucket, prefix=folder, recursive=True):
            yield str(entry.object_name)[start:], entry

    def exists(self, key: str) -> bool:
        """Say whether there is such an object."""
        try:
            self._ask(lambda: self.client.stat_object(self.bucket, self._key(key)))
        except FileNotFoundError:
            return False
        return True

    def remove(self, key: str) -> None:
        """Delete one object, if it is there."""
        self._ask(lambda: self.client.remove_object(self.bucket, self._key(key)))

    def delete(self, prefix: str) -> None:
        """Delete the folder, its manifest first."""
        keys = list(self.list(prefix))
        keys.sort(key=lambda key: not key.endswith(MANIFEST))
        for key in keys:
            self.remove(key)


def _unreached(uri: str, error: Exception) -> StoreUnavailable:
    """Return what a person can act on where no answer came: who does not answer, or whose certificate is refused."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL") or "the server"
    reason = getattr(error, "reason", None) or error
    certificate = next((e for e in (reason, *reason.args) if isinstance(e, ssl.SSLCertVerificationError)), None)
    if certificate is not None:
        remedy = "set AWS_CA_BUNDLE to a file with the certificate of the authority that signed it"
        if certificate.verify_code == CERTIFICATE_EXPIRED:
            remedy = "renew the server's certificate, or set this machine's clock"
        return StoreUnavailable(
            f"store: {uri}: the certificate of {endpoint} is refused: {certificate.verify_message}; {remedy}"
        )
    return StoreUnavailable(
        f"store: {uri}: {endpoint} does not answer ({type(reason).__name__}); check AWS_ENDPOINT_URL, the network, and "
        "AWS_CA_BUNDLE for a private certificate",
        passing=True,
    )


def _client() -> "Minio":
    import urllib3
    from minio import Minio
    from minio.credentials.providers import AWSConfigProvider, ChainedProvider, EnvAWSProvider, EnvMinioProvider

    endpoint = os.environ.get("AWS_ENDPOINT_URL", "https://s3.amazonaws.com")
    parts = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidStore(f"AWS_ENDPOINT_URL: {endpoint!r} is not the address of a server; write https://host:port")
    credentials = ChainedProvider([EnvAWSProvider(), EnvMinioProvider(), AWSConfigProvider()])
    try:
        credentials.retrieve()
    except ValueError:
        raise StoreUnavailable(
            "store: there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or AWS_SHARED_CREDENTIALS_FILE"
        ) from None
    pool = urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=5, read=120),
        maxsize=2 * PARALLEL_TRANSFERS,
        cert_reqs="CERT_REQUIRED",
        ca_certs=os.environ.get("AWS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or None,
        retries=urllib3.Retry(
            total=2,
            backoff_factor=0.2,
            backoff_jitter=0.2,
            status_forcelist=[500, 502, 503, 504],
            raise_on_status=False,  # the server's own words are in the answer's body
        ),
    )
    return Minio(
        parts.netloc,
        secure=parts.scheme == "https",
        region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        credentials=credentials,
        http_client=pool,
    )

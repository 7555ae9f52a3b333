"""The store in an S3 bucket: MinIO, Ceph, SeaweedFS, or any other.

Credentials come from the environment (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`) or a mounted credentials file
(`AWS_SHARED_CREDENTIALS_FILE`); the server is `AWS_ENDPOINT_URL`, its private CA `AWS_CA_BUNDLE`.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from telellm.store import MANIFEST, PARALLEL_TRANSFERS, InvalidStore, Store, StoreUnavailable, inside

if TYPE_CHECKING:
    from minio import Minio


class BucketStore(Store):
    """A store in an S3 bucket: MinIO, Ceph, SeaweedFS, or any other."""

    def __init__(self, uri: str, bucket: str, prefix: str) -> None:
        super().__init__(uri.rstrip("/"))
        self.bucket, self.prefix = bucket, prefix
        with self._reached():
            self.client = _client()
            if not self.client.bucket_exists(bucket):
                raise StoreUnavailable(f"store: {uri}: there is no bucket {bucket}; create it, or name another one")

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
                "AccessDenied": "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY and the rights of that user",
                "InvalidAccessKeyId": "check AWS_ACCESS_KEY_ID",
                "SignatureDoesNotMatch": "check AWS_SECRET_ACCESS_KEY and this machine's clock",
                "XMinioStorageFull": "the server is full: make room there",
            }.get(error.code or "", "see the server's log")
            raise StoreUnavailable(f"store: {self.uri}: {error.code}: {error.message}; {remedy}") from error
        except InvalidStore:
            raise
        except ValueError as error:
            raise InvalidStore(f"store: {self.uri}: {error}; write s3://bucket/prefix") from error
        except (HTTPError, MinioException) as error:
            endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
            reason = getattr(error, "reason", None) or error
            raise StoreUnavailable(
                f"store: {self.uri}: {endpoint or 'the server'} does not answer ({type(reason).__name__}); "
                "check AWS_ENDPOINT_URL, the network, and AWS_CA_BUNDLE for a private certificate"
            ) from error

    def read(self, key: str) -> bytes:
        """Return an object."""
        with self._reached():
            response = self.client.get_object(self.bucket, self._key(key))
            try:
                data: bytes = response.read()
                return data
            finally:
                response.close()
                response.release_conn()

    def write(self, key: str, data: bytes) -> None:
        """Write a small object."""
        with self._reached():
            self.client.put_object(self.bucket, self._key(key), io.BytesIO(data), len(data))

    def upload(self, key: str, path: Path) -> None:
        """Write an object from a file, in parallel parts where it is large."""
        with self._reached():
            self.client.fput_object(self.bucket, self._key(key), str(path), num_parallel_uploads=4)

    def download(self, key: str, path: Path) -> None:
        """Write an object to a file."""
        temporary = path.with_name(f"{path.name}.part")
        try:
            with self._reached():
                self.client.fget_object(self.bucket, self._key(key), str(path), tmp_file_path=str(temporary))
        finally:
            temporary.unlink(missing_ok=True)

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the keys under a folder, sorted."""
        for key, _ in self.stamps(prefix):
            if key != prefix:
                yield key

    def stamps(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Yield keys and entity tags; `prefix` may be one object."""
        start = len(self.prefix) + 1 if self.prefix else 0
        folder = self._key(prefix) + "/" if self._key(prefix) else ""
        with self._reached():
            entries = self.client.list_objects(self.bucket, prefix=folder, recursive=True)
            found = sorted((str(entry.object_name)[start:], str(entry.etag)) for entry in entries)
            if not found and prefix and self.exists(prefix):
                found = [(prefix, str(self.client.stat_object(self.bucket, self._key(prefix)).etag))]
        yield from found

    def exists(self, key: str) -> bool:
        """Say whether there is such an object."""
        try:
            with self._reached():
                self.client.stat_object(self.bucket, self._key(key))
        except FileNotFoundError:
            return False
        return True

    def remove(self, key: str) -> None:
        """Delete one object, if it is there."""
        with self._reached():
            self.client.remove_object(self.bucket, self._key(key))

    def delete(self, prefix: str) -> None:
        """Delete the folder, its manifest first."""
        keys = list(self.list(prefix))
        keys.sort(key=lambda key: not key.endswith(MANIFEST))
        for key in keys:
            self.remove(key)


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
            total=4,
            backoff_factor=0.5,
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

"""Where files lie: a local path, or a URL of any kind that fsspec reads (s3://, gs://, https://, ...).

Credentials and end points come from the environment, which is read once, when fsspec is first imported:

    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE, AWS_ENDPOINT_URL, ...    as for every AWS tool
    FSSPEC_S3_ANON=true              public buckets of S3, without credentials
    FSSPEC_S3_ENDPOINT_URL=URL       another S3 service, such as MinIO
    FSSPEC_GS_TOKEN=anon             public buckets of Google Cloud Storage
    GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT=false                 where gRPC is blocked: gcsfs would wait a minute for it
    FSSPEC_HTTP='{"client_kwargs": {"trust_env": true}}'    web servers behind HTTPS_PROXY
    FSSPEC_<PROTOCOL>_<OPTION>=VALUE any other option of a protocol's file system, JSON or plain text

fsspec runs all requests of a process in one daemon thread of its own, `fsspecIO`, and closes its connections when the
process ends. File systems are made anew in forked and spawned processes.
"""

import errno
import os
import posixpath
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.errors import DataError

TRIES = 6
_FIRST_PAUSE_SECONDS = 0.25
_CONNECTIONS = 64
_FLEETING_STATUS = {408, 425, 429}
# Of libraries that may not be installed.
_LASTING_ERRORS = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "DefaultCredentialsError",
    "ProfileNotFound",
    "ParamValidationError",
    "InvalidURL",
}

# Kept alive for the sake of forked processes: fsspec drops its parent's file systems there, and closing their
# connections takes them out of the epoll that parent and child share, so that the parent would wait for ever.
_used: dict[int, Any] = {}


def is_remote(location: str) -> bool:
    """Whether it is a URL rather than a path of this machine."""
    return "://" in location


def join(directory: str, file: str) -> str:
    """Where a file that a data set directory names lies: beside its other files, or where an absolute name says."""
    if is_remote(file) or file.startswith("/"):
        return file
    if not is_remote(directory):
        return os.path.normpath(Path(directory) / file)
    protocol, _, path = directory.partition("://")
    return f"{protocol}://{posixpath.normpath(posixpath.join(path, file))}"


def file_system(location: str) -> Any:
    """The fsspec file system of a URL: one per process for equal protocols, hosts and options.

    Raises:
        DataError: no such protocol, or its package is not installed.
    """
    import fsspec

    try:
        files = fsspec.url_to_fs(location, **_options(location.partition("://")[0]))[0]
    except (ImportError, ValueError) as error:
        raise DataError(f"{location}: {error}; `pip install 'diptych[remote]'` brings s3, gs and http") from None
    _used[id(files)] = files
    return files


def read_file(location: str) -> bytes:
    """All bytes of a file.

    Raises:
        FileNotFoundError: it is not there.
        OSError: it cannot be read; of a URL, after TRIES tries.
        DataError: see `file_system`.
    """
    if not is_remote(location):
        return Path(location).read_bytes()
    files = file_system(location)
    return bytes(_answer(location, lambda: files.cat_file(location)))


def file_size(location: str) -> int:
    """Bytes of a file.

    Raises:
        FileNotFoundError: it is not there.
        OSError: it cannot be asked for, or the server does not say its size.
        DataError: see `file_system`.
    """
    if not is_remote(location):
        return Path(location).stat().st_size
    files = file_system(location)
    size = _answer(location, lambda: files.info(location)["size"])
    if size is None:
        raise OSError(errno.EIO, "the server does not say its size")
    return int(size)


def as_os_error(error: Exception) -> OSError:
    """What a protocol's library raised, as an OSError with a text of one line in `strerror`."""
    status = _status(error)
    text = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
    if isinstance(error, TimeoutError):
        return TimeoutError(errno.ETIMEDOUT, text or "no answer in time")
    if isinstance(error, FileNotFoundError) or status == 404:
        return FileNotFoundError(errno.ENOENT, "no such file on the server")
    if _is_refusal(error):
        return PermissionError(errno.EACCES, f"access refused ({text})")
    if status is not None:
        return OSError(errno.EIO, f"HTTP status {status}")
    if isinstance(error, OSError):
        return OSError(error.errno or errno.EIO, text or type(error).__name__)
    return OSError(errno.EIO, f"{type(error).__name__}: {text}")


def is_lasting(error: Exception) -> bool:
    """Whether trying again is pointless: not there, not allowed, not understood."""
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotImplementedError | TypeError):
        return True
    if _is_refusal(error) or type(error).__name__ in _LASTING_ERRORS:
        return True
    if isinstance(error, OSError) and error.errno in {errno.EINVAL, errno.EPERM, errno.ENOSYS}:
        return True
    status = _status(error)
    return status is not None and 400 <= status < 500 and status not in _FLEETING_STATUS


def is_past_end(error: Exception) -> bool:
    """Whether a range begins where the file has ended."""
    answer = getattr(error.__cause__, "response", None)  # of S3
    return _status(error) == 416 or (
        isinstance(answer, dict) and answer["Error"].get("Code") in {"InvalidRange", "416"}
    )


def pause_seconds(location: str, tries: int) -> float:
    """How long to wait after so many failed tries (from 1): doubling, spread by up to half either way by the name."""
    spread = zlib.crc32(f"{location} {tries}".encode()) / 2**32
    return float(_FIRST_PAUSE_SECONDS * 2 ** (tries - 1) * (0.5 + spread))


def _options(protocol: str) -> dict[str, Any]:
    """Options of ours, where the environment does not set them."""
    import fsspec.config

    if protocol in {"s3", "s3a"} and "config_kwargs" not in fsspec.config.conf.get(protocol, {}):
        return {"config_kwargs": {"max_pool_connections": _CONNECTIONS}}  # botocore's 10 would throttle ranged reads
    return {}


def _is_refusal(error: Exception) -> bool:
    if isinstance(error, OSError) and str(error).startswith("Forbidden"):  # gcsfs gives it no number
        return True
    return isinstance(error, PermissionError) or _status(error) in {401, 403}


def _status(error: Exception) -> int | None:
    """HTTP status in an error of aiohttp or gcsfs."""
    status = getattr(error, "status", None) or getattr(error, "code", None)
    return int(status) if isinstance(status, int) or (isinstance(status, str) and status.isdigit()) else None


def _answer(location: str, ask: Callable[[], Any]) -> Any:
    """What a file system answers, asked up to TRIES times; whatever a protocol's library raises becomes OSError."""
    tries = 0
    while True:
        try:
            return ask()
        except Exception as error:  # every protocol's library has exceptions of its own
            tries += 1
            if is_lasting(error) or tries == TRIES:
                raise as_os_error(error) from error
            time.sleep(pause_seconds(location, tries))

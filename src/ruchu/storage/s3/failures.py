"""What an error of an S3 server, or on the way to it, means for a storage."""

from typing import Any

from botocore import exceptions

from ruchu import errors

FAILURES = (exceptions.ClientError, exceptions.BotoCoreError, exceptions.HTTPClientError)
"""Everything that a call of boto3 raises of its own."""

_KEYS_HINT = "Check the access key and the secret key of this storage."
_REGION_HINT = "Give the right one in the location: `?region=...`."
_MEANINGS: dict[str, type[errors.StorageError]] = {
    "NoSuchBucket": errors.StorageGone,
    "NoSuchKey": errors.ObjectMissing,
    "NoSuchVersion": errors.ObjectMissing,
    "NoSuchUpload": errors.ObjectMissing,
    "404": errors.ObjectMissing,
    "PreconditionFailed": errors.ObjectExists,
    "412": errors.ObjectExists,
    "InvalidRange": errors.ObjectShort,
    "416": errors.ObjectShort,
    "QuotaExceeded": errors.StorageFull,
    "InsufficientStorage": errors.StorageFull,
    "StorageFull": errors.StorageFull,
    "XMinioStorageFull": errors.StorageFull,
    "507": errors.StorageFull,
}
# Nobody but a person can mend these: trying again only delays the message.
_REFUSALS: dict[str, str] = {
    "AccessDenied": "These credentials allow too little; see docs/operators/storages.md.",
    "403": "The credentials are wrong or allow too little.",
    "401": _KEYS_HINT,
    "InvalidAccessKeyId": _KEYS_HINT,
    "SignatureDoesNotMatch": _KEYS_HINT,
    "InvalidToken": _KEYS_HINT,
    "ExpiredToken": "The temporary credentials have expired: give new ones.",
    "AllAccessDisabled": "The provider has closed this account.",
    "RequestTimeTooSkewed": "The clock of this host is wrong: set it (NTP).",
    "RequestExpired": "The clock of this host is wrong: set it (NTP).",
    "AuthorizationHeaderMalformed": _REGION_HINT,
    "PermanentRedirect": _REGION_HINT,
    "301": _REGION_HINT,
    "IllegalLocationConstraintException": _REGION_HINT,
    "InvalidBucketName": "Check the name of the bucket in the location.",
    "NotImplemented": "This server lacks what a storage needs; see `ruchu storage probe`.",
    "501": "This server lacks what a storage needs; see `ruchu storage probe`.",
    "InvalidObjectState": "The object was moved to an archive tier: bring it back there first.",
}
_BUCKET_HINT = "Make the bucket, or check its name in the location."
_AWAY_HINT = "Check the endpoint in the location, the network and the server; then run again."
_CERTIFICATE_HINT = "Give the file of its authority in the location: `?ca=/path/to/ca.pem`."
_NO_KEYS_HINT = "Give --credentials-file, or let the environment of the host have credentials."
_AWAY = (
    exceptions.EndpointConnectionError,
    exceptions.ConnectTimeoutError,
    exceptions.ConnectionClosedError,
    exceptions.ReadTimeoutError,
    exceptions.ProxyConnectionError,
    exceptions.ConnectionError,
    exceptions.HTTPClientError,
)


def code_of(error: Exception) -> str:
    """Return the code that the server gave, empty if the error is not the server's."""
    if not isinstance(error, exceptions.ClientError):
        return ""
    return str(error.response.get("Error", {}).get("Code", ""))


def retries_of(error: Exception) -> int:
    """Return how often the call was repeated before it failed."""
    response: Any = getattr(error, "response", {})
    return int(response.get("ResponseMetadata", {}).get("RetryAttempts", 0))


def translate(error: Exception, what: str) -> errors.StorageError:
    """Return our error for one of boto3; `what` names the object or bucket."""
    code = code_of(error)
    if code:
        return _of_the_server(error, code, what)
    if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return errors.StorageRefused(f"{what}: {error}", hint=_NO_KEYS_HINT)
    if isinstance(error, exceptions.SSLError):
        return errors.StorageRefused(f"{what}: {error}", hint=_CERTIFICATE_HINT)
    if isinstance(error, _AWAY):
        return errors.StorageGone(f"{what}: {error}", hint=_AWAY_HINT)
    return errors.StorageError(f"{what}: {error}")


def _of_the_server(error: Exception, code: str, what: str) -> errors.StorageError:
    said = str(getattr(error, "response", {}).get("Error", {}).get("Message", ""))
    text = f"{what}: {code}" + (f": {said}" if said and said != code else "")
    if code in _MEANINGS:
        hint = _BUCKET_HINT if code == "NoSuchBucket" else ""
        return _MEANINGS[code](text, hint=hint)
    if code in _REFUSALS:
        return errors.StorageRefused(text, hint=_REFUSALS[code])
    return errors.StorageError(text)

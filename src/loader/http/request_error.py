"""What a broken request means: TLS, timeouts, a server of another protocol, a lost connection.

Decided by the exception's type and codes, never by its text, which may quote the URL or the server.
"""

from __future__ import annotations

import datetime
import http.client
import ssl

from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.http.connection import ConnectTimeout, LowSpeed
from loader.http.retry import TransientError
from loader.http.url import DEFAULT_PORTS, HttpUrl
from loader.limits import RetryPolicy

# X509_V_ERR_* of OpenSSL's x509_vfy.h, as in `SSLCertVerificationError.verify_code`.
_NOT_YET_VALID, _EXPIRED = 9, 10
_OTHER_NAME = frozenset({62, 64})  # HOSTNAME_MISMATCH, IP_ADDRESS_MISMATCH
_SELF_SIGNED = frozenset({18, 19})  # DEPTH_ZERO_SELF_SIGNED_CERT, SELF_SIGNED_CERT_IN_CHAIN
# UNABLE_TO_GET_ISSUER_CERT, UNABLE_TO_GET_ISSUER_CERT_LOCALLY, UNABLE_TO_VERIFY_LEAF_SIGNATURE
_UNKNOWN_ISSUER = frozenset({2, 20, 21})

# `SSLError.reason` of a response that is no TLS record.
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "UNKNOWN_PROTOCOL"})
_OLD_TLS = frozenset({"TLSV1_ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL"})
_CLIENT_CERTIFICATE = frozenset({"TLSV13_ALERT_CERTIFICATE_REQUIRED"})
# The first bytes of a TLS alert: type 21, version 3.x (RFC 8446, 5.1). http.client takes them for the status line.
_TLS_ALERT = "\x15\x03"

_RUN_AGAIN = "Check the URL and the network, then run the same command again."


def request_error(
    error: OSError | http.client.HTTPException, url: HttpUrl, retry_policy: RetryPolicy
) -> TransientError | LoaderError:
    """Return the error of a broken request. LoaderError: a repetition would not help."""
    code, hint = FailureCode.SOURCE_UNREACHABLE, _RUN_AGAIN
    match error:
        case ssl.SSLCertVerificationError():
            return _certificate_error(error, url)
        case ssl.SSLError() if error.reason:
            return _tls_error(error.reason, url)
        case TimeoutError():
            return _timeout_error(error, url, retry_policy)
        case http.client.IncompleteRead():
            code, what = FailureCode.SOURCE_TRUNCATED, "the response ends before its last chunk"
        case http.client.RemoteDisconnected():
            what, hint = "the server closed the connection without a response", _hint_of_no_response(url)
        case http.client.BadStatusLine() if str(error.args[0]).startswith(_TLS_ALERT):
            return _other_scheme(url, "the server expects TLS", "https://")
        case http.client.HTTPException():
            what = "the response is not HTTP, or its headers do not end"
        case ConnectionResetError():
            what, hint = "the server reset the connection", _hint_of_no_response(url)
        case _:
            what = error.strerror or type(error).__name__
    return TransientError(LoaderError(code, f"{url.location}: {what}", hint))


def _timeout_error(error: TimeoutError, url: HttpUrl, retry_policy: RetryPolicy) -> TransientError:
    match error:
        case ConnectTimeout():
            what = f"no connection to port {url.port} within {retry_policy.connect_seconds:g} s"
            hint = "Check the host and port in the URL, and the firewalls between. Then run the same command again."
        case LowSpeed():
            limit = f"{retry_policy.low_speed_limit_bytes_per_second:,.0f} bytes per second"
            what = f"the server sends less than {limit}"
            hint = "Run the same command again later to resume, or use another copy of the file."
        case _:
            what = f"the server sent no byte for {retry_policy.read_timeout_seconds:g} s"
            hint = (
                "If it needs more time, such as to make the file, raise the limit: --read-timeout SECONDS, for the service"
                " IMPORTER_READ_TIMEOUT_SECONDS. Otherwise run the same command again later."
            )
    return TransientError(LoaderError(FailureCode.SOURCE_UNREACHABLE, f"{url.location}: {what}", hint))


def _tls_error(reason: str, url: HttpUrl) -> TransientError | LoaderError:
    if reason in _NO_TLS:
        return _other_scheme(url, "the server does not speak TLS", "http://")
    if reason in _OLD_TLS:
        what = "the server has no version of TLS from 1.2 on"
        hint = "Have its operator enable TLS 1.2, or download the file and import the copy."
    elif reason in _CLIENT_CERTIFICATE:
        what = "the server requires a client certificate, and the loader has none"
        hint = "Download the file and import the copy."
    else:
        error = LoaderError(
            FailureCode.SOURCE_UNREACHABLE, f"{url.location}: TLS has failed ({reason})", _RUN_AGAIN
        )
        return TransientError(error)
    return LoaderError(FailureCode.SOURCE_UNREACHABLE, f"{url.location}: {what}", hint)


def _certificate_error(error: ssl.SSLCertVerificationError, url: HttpUrl) -> LoaderError:
    number = error.verify_code
    trust = "If you trust this server, set SSL_CERT_FILE to a PEM file with the certificate of its authority."
    if number in (_EXPIRED, _NOT_YET_VALID):
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
        what = "has expired" if number == _EXPIRED else "is not valid yet"
        message = f"the server's certificate {what}, by this machine's clock ({now})"
        hint = "Check the clock of this machine. If it is right, have the server's operator renew the certificate."
    elif number in _OTHER_NAME:
        message = f"the server's certificate is for another name than {url.host}"
        hint = "Correct the host in the URL: use a name that the certificate has."
    elif number in _SELF_SIGNED:
        message = (
            "the server's certificate is self-signed, or signed by an authority that is not trusted here"
        )
        hint = trust
    elif number in _UNKNOWN_ISSUER:
        message = "the server's certificate is from an authority that is not known here"
        hint = f"{trust} If browsers accept it, the server may not send its intermediate certificate."
    else:
        message = f"the server's certificate is not trusted ({error.verify_message})"
        hint = "Have the server's operator correct the certificate, or download the file and import the copy."
    return LoaderError(FailureCode.SOURCE_UNREACHABLE, f"{url.location}: {message}", hint)


def _other_scheme(url: HttpUrl, what: str, scheme: str) -> LoaderError:
    return LoaderError(
        FailureCode.SOURCE_PROTOCOL,
        f"{url.location}: {what} on port {url.port}",
        f"Start the URL with {scheme}, or correct its port.",
    )


def _hint_of_no_response(url: HttpUrl) -> str:
    """Many servers close a connection on which they expect TLS and get an HTTP request."""
    if url.scheme == "https" or url.port == DEFAULT_PORTS["http"]:
        return _RUN_AGAIN
    return (
        f"If the server expects TLS on port {url.port}, start the URL with https://. Otherwise: {_RUN_AGAIN}"
    )

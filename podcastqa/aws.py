"""AWS is asked with the settings' own credentials, one attempt a call, and what it says wrong becomes a sentence.

boto3 is loaded when the first client is made. Its own retries are off: each attempt may cost money, so whoever pays
decides about another (`spend.paid`). What may have been done although no answer came is in doubt, never failed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from podcastqa.errors import ProviderError

FAQ = "See README.md#questions-people-ask"
#: Where AWS itself answers; an answer from anywhere else validates nothing.
_OWN_HOSTS = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")

_CONNECT_SECONDS = 1.0
#: A proxy may answer with a page of its own: so much of it is told.
_LONGEST = 300

_CREDENTIALS = (
    "credentials",
    "AWS credentials not found or invalid",
    "Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in config.env",
)
_THROTTLED = ("throttled", "AWS asks for fewer requests", "Wait some minutes and run it again")
_NOT_ENABLED = (
    "not-enabled",
    "Cost Explorer has never been opened in this account, or the user may not see billing",
    "Open Cost Explorer once in the AWS console (it takes up to 24 hours to prepare its data)",
)
_UNAVAILABLE = (
    "unavailable",
    "Cost Explorer has no data for this period yet",
    "Wait up to 24 hours after Cost Explorer was first opened, then run it again",
)
_SENDER = (
    "sender",
    "SES region not verified for sending emails",
    "Verify COST_ALERT_SENDER (and, in the sandbox, COST_ALERT_EMAIL) in the SES console of AWS_REGION",
)
_PAUSED = (
    "paused",
    "Amazon SES has paused sending for this account",
    "See the account's reputation in the SES console",
)
#: AWS's error code → kind, what it means, what to do. Codes: each API reference, "Errors" and "Common Errors".
_BY_CODE: dict[str, tuple[str, str, str]] = {
    **dict.fromkeys(
        (
            *("UnrecognizedClientException", "InvalidClientTokenId", "InvalidSignatureException", "AuthFailure"),
            *("SignatureDoesNotMatch", "ExpiredToken", "ExpiredTokenException", "IncompleteSignature"),
            *("MissingAuthenticationToken", "InvalidAccessKeyId", "RequestExpired"),
        ),
        _CREDENTIALS,
    ),
    **dict.fromkeys(
        (
            *("LimitExceededException", "ThrottlingException", "Throttling", "TooManyRequestsException"),
            *("RequestLimitExceeded", "SlowDown", "ThrottledException"),
        ),
        _THROTTLED,
    ),
    **dict.fromkeys(("DataUnavailableException", "BillExpirationException"), _UNAVAILABLE),
    **dict.fromkeys(
        ("MessageRejected", "MailFromDomainNotVerifiedException", "MailFromDomainNotVerified"),
        _SENDER,
    ),
    **dict.fromkeys(("AccountSendingPausedException", "ConfigurationSetSendingPausedException"), _PAUSED),
    "OptInRequired": _NOT_ENABLED,
}
_DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation")


@dataclass(frozen=True, slots=True)
class Aws:
    """One AWS user's credentials and region; makes clients."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(repr=False)
    region: str
    overridden: bool = False
    """Whether the settings know that an endpoint is overridden: the run is a contract check then."""
    _clients: dict[str, Any] = field(default_factory=dict, repr=False)

    def client(self, service: str, seconds: float) -> Any:
        """A client that makes one attempt and waits at most `seconds` for it; raises ProviderError."""
        try:
            import boto3
            from botocore.config import Config
        except ImportError as problem:
            raise ProviderError(
                "The AWS library boto3 is not installed.",
                next_step="Install it: pip install 'podcastqa[aws]'",
                kind="not-installed",
            ) from problem
        connect = max(0.1, min(_CONNECT_SECONDS, seconds / 2))  # both together are the most that one attempt takes
        config = Config(
            connect_timeout=connect,
            read_timeout=max(0.1, seconds - connect),
            retries={"mode": "standard", "total_max_attempts": 1},
        )
        with asking(service):
            session = self._clients.setdefault("session", boto3.session.Session())
            made = session.client(
                service,
                region_name=self.region,
                aws_access_key_id=self.access_key_id,
                aws_secret_access_key=self.secret_access_key,
                aws_session_token=self.session_token or None,
                config=config,
            )
        if not self.overridden and not _is_own(made.meta.endpoint_url):
            raise ProviderError(
                f"The AWS configuration file points {service} at {made.meta.endpoint_url}, which is not AWS.",
                next_step="Take the endpoint_url out of ~/.aws/config.",
                kind="endpoint",
            )
        return made

    @property
    def key_digest(self) -> str:
        """What tells one user's answers from another's where no account is known; the key cannot be told from it."""
        return hashlib.sha256(self.access_key_id.encode()).hexdigest()[:12]

    def account(self) -> str:
        """The account that the credentials belong to, asked once (free, and needs no permission); ProviderError."""
        if "account" not in self._clients:
            sts = self.client("sts", 4.5)
            with asking("sts:GetCallerIdentity"):
                self._clients["account"] = str(sts.get_caller_identity()["Account"])
        return str(self._clients["account"])


@contextmanager
def asking(action: str) -> Iterator[None]:
    """Around one call: what botocore raises comes out as a ProviderError with the next step."""
    from botocore import exceptions as told
    from botocore.parsers import ResponseParserError

    try:
        yield
    except told.ClientError as problem:
        raise _refused(action, problem.response) from problem
    except (told.NoCredentialsError, told.PartialCredentialsError, told.ProfileNotFound) as problem:
        raise _said(_CREDENTIALS, action, "") from problem
    except (told.EndpointConnectionError, told.ConnectTimeoutError, told.ProxyConnectionError) as problem:
        raise ProviderError(
            f"AWS could not be reached for {action}.",
            next_step=f"Check the network and AWS_REGION, then run it again. {FAQ}.",
            kind="unreachable",
            again=True,
        ) from problem
    except (told.HTTPClientError, told.ConnectionError, ResponseParserError) as problem:
        # The request was on its way: it may have been served, and be on the bill.
        raise ProviderError(
            f"AWS did not answer {action}; whether it was done is in doubt.",
            next_step=f"It counts at its estimate until the bill says more. Run it again later. {FAQ}.",
            kind="no-answer",
            in_doubt=True,
            again=True,
        ) from problem
    except told.BotoCoreError as problem:
        raise ProviderError(
            f"{action} could not be asked of AWS: {problem}.",
            next_step="Check AWS_REGION and the AWS configuration.",
            kind="misconfigured",
        ) from problem


def _refused(action: str, response: dict[str, Any]) -> ProviderError:
    """By code first, then by HTTP status: codes differ between services, what a status means does not."""
    code = str(response.get("Error", {}).get("Code", ""))
    said = " ".join(str(response.get("Error", {}).get("Message", "")).split())[:_LONGEST]
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _DENIED or (status in (401, 403) and code not in _BY_CODE):
        return _denied(action, said)
    if code in _BY_CODE:
        return _said(_BY_CODE[code], action, said)
    if status == 429:
        return _said(_THROTTLED, action, said)
    if status >= 500:
        what = ("server", "AWS had a fault of its own", "Run it again later")
        return _said(what, action, said or code)
    return _said(("refused", "AWS refused the request", "See what it said"), action, f"{code}: {said}")


def _denied(action: str, said: str) -> ProviderError:
    if "not enabled for cost explorer" in said.lower():
        return _said(_NOT_ENABLED, action, said)
    what = "AWS credentials lack required permissions"
    if action.startswith("ce:"):
        what += " for Cost Explorer"
    return _said(("permission", what, f"Allow {action} in the policy of the IAM user"), action, said)


def _said(what: tuple[str, str, str], action: str, said: str) -> ProviderError:
    kind, meaning, step = what
    detail = f" ({action}: {said.rstrip('.')})" if said else f" ({action})"
    return ProviderError(
        f"{meaning}{detail}.", next_step=f"{step}. {FAQ}.", kind=kind, again=kind in ("throttled", "server")
    )


def _is_own(endpoint: str) -> bool:
    host = endpoint.partition("://")[2].partition("/")[0].partition(":")[0]
    return host.endswith(_OWN_HOSTS)

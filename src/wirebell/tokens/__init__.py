"""JSON Web Tokens of connections and of subscriptions: reading, checking, making.

Pure: ``now`` is given, and keys that have to be fetched are handed in (`wirebell.jwks` gets them).

A token is believed when its algorithm is one that a configured key was made for. The token never
chooses the kind of key: an RSA key is no HMAC secret, an elliptic curve has one algorithm, and
``none`` is none. Signatures are checked with PyJWT's algorithms; around them stands our own
reading of the three parts, because a busy node reads thousands of tokens a second and PyJWT's
takes eight times as long.

Source:
    Protocol document, sections 1.6 and 2.5; RFC 7515, RFC 7519.
"""

from __future__ import annotations

from wirebell.tokens.claims import (
    ChannelClaim,
    ConnectionClaims,
    SubscriptionClaims,
    SubscriptionOverride,
)
from wirebell.tokens.creation import create_connection_token, create_subscription_token
from wirebell.tokens.keys import TokenKeys
from wirebell.tokens.verifier import KeyLocation, TokenVerifier

__all__ = (
    "ChannelClaim",
    "ConnectionClaims",
    "KeyLocation",
    "SubscriptionClaims",
    "SubscriptionOverride",
    "TokenKeys",
    "TokenVerifier",
    "create_connection_token",
    "create_subscription_token",
)

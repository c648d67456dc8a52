"""The article's sign-in: row `POST /token`, and every forged token that must not pass."""

from __future__ import annotations

import base64
import hmac
import json
import sqlite3
import time
from typing import TYPE_CHECKING, Any

import jwt
import pytest

from tests import servers
from tests.integration.clients import bearer, connect, http, receive, sign_in, told

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.servers import Server

pytestmark = pytest.mark.anyio


def find_secret(data_dir: Path, token: str) -> bytes:
    """Find the signing secret in the data folder by what it can verify."""
    algorithm = jwt.get_unverified_header(token)["alg"]
    for path in data_dir.rglob("*"):
        if not path.is_file() or path.stat().st_size > 10_000:
            continue
        content = path.read_bytes()
        for candidate in (content, content.strip()):
            try:
                jwt.decode(token, candidate, algorithms=[algorithm], options={"verify_aud": False})
            except (jwt.PyJWTError, ValueError):
                continue
            return candidate
    raise AssertionError(f"no file in {data_dir} verifies the token")


def encoded(text: str) -> str:
    """Return base64url without padding, as in a token."""
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


async def test_the_password_flow_answers_a_bearer_token(demo: Server) -> None:
    """Form in, token out, with its lifetime, and a cookie for the page's own sockets."""
    async with http(demo) as client:
        answer = await client.post(
            "/token",
            data={"username": "bob", "password": "wirebell-demo", "grant_type": "password"},
        )

    body = answer.json()
    assert answer.status_code == 200
    assert body["token_type"] == "bearer"
    assert body["expires_in"] == 3600
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"access_token={body['access_token']}")
    assert "httponly" in cookie.lower()
    assert "samesite=strict" in cookie.lower()


async def test_a_token_has_the_promised_claims(demo: Server) -> None:
    """``sub exp iat jti iss aud`` are there, and each token has its own ``jti``."""
    async with http(demo) as client:
        tokens = [await sign_in(client), await sign_in(client)]

    claims, others = (jwt.decode(t, options={"verify_signature": False}) for t in tokens)
    assert {"sub", "exp", "iat", "jti", "iss", "aud"} <= claims.keys()
    assert claims["sub"] == "ann"
    assert claims["exp"] - claims["iat"] == 3600
    assert abs(claims["iat"] - time.time()) < 30
    assert claims["jti"]
    assert claims["jti"] != others["jti"]
    assert claims["iss"]
    assert claims["aud"]


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"username": "ann", "password": "not-ours-5521"}, 401),
        ({"username": "nobody", "password": "wirebell-demo"}, 401),
        ({"username": "ann' OR 1=1 --", "password": "x"}, 401),
        ({"username": "ann"}, 422),
        ({"password": "secret-that-is-not-echoed"}, 422),
    ],
)
async def test_a_wrong_sign_in_is_refused(demo: Server, form: dict[str, str], status: int) -> None:
    """Wrong credentials are 401 without a hint which part was wrong; a half form is 422."""
    async with http(demo) as client:
        answer = await client.post("/token", data=form)

    assert answer.status_code == status
    assert "set-cookie" not in answer.headers
    assert answer.json()["detail"]
    assert form.get("password", "-") not in answer.text


async def test_an_unknown_user_reads_like_a_wrong_password(demo: Server) -> None:
    """The two answers are equal, so that nobody can list the users."""
    async with http(demo) as client:
        wrong = await client.post("/token", data={"username": "ann", "password": "wrong"})
        unknown = await client.post("/token", data={"username": "nobody", "password": "wrong"})

    assert (wrong.status_code, wrong.json()) == (unknown.status_code, unknown.json())
    assert "bearer" in wrong.headers["www-authenticate"].lower()


async def test_passwords_are_stored_as_argon2_hashes(demo: Server, data_dir: Path) -> None:
    """The database holds argon2 hashes, and the password nowhere."""
    password = "a password nobody else has 7261"
    async with http(demo) as client:
        answer = await client.post("/register", json={"username": "hash.ed", "password": password})
    database = data_dir / "taskboard.db"
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        dump = "\n".join(connection.iterdump())
    finally:
        connection.close()

    assert answer.status_code == 201
    assert dump.count("$argon2id$") >= 3, "ann, bob and the new user"
    assert password not in dump
    assert "wirebell-demo" not in dump
    everything = b"".join(p.read_bytes() for p in data_dir.rglob("*") if p.is_file())
    assert password.encode() not in everything


async def test_a_registered_user_signs_in_and_a_name_is_taken_once(demo: Server) -> None:
    """201, then a token; the same name again is 409."""
    body = {"username": "carol_1", "password": "long enough"}
    async with http(demo) as client:
        first = await client.post("/register", json=body)
        again = await client.post("/register", json=body | {"password": "another one"})
        token = await client.post("/token", data=body)
        name = jwt.decode(token.json()["access_token"], options={"verify_signature": False})["sub"]

    assert first.status_code == 201
    assert first.json()["username"] == "carol_1"
    assert again.status_code == 409
    assert name == "carol_1"


@pytest.mark.parametrize(
    "body",
    [
        {"username": "", "password": "long enough"},
        {"username": "x" * 33, "password": "long enough"},
        {"username": "with space", "password": "long enough"},
        {"username": "ev\nil", "password": "long enough"},
        {"username": "evil\n", "password": "long enough"},
        {"username": "dave", "password": "q7q7q7q"},
        {"username": "dave", "password": "x" * 1025},
        {"username": "dave"},
    ],
)
async def test_a_registration_out_of_bounds_is_422_and_not_echoed(
    demo: Server, body: dict[str, str]
) -> None:
    """Names and passwords are bounded, and the answer repeats neither."""
    async with http(demo) as client:
        answer = await client.post("/register", json=body)

    assert answer.status_code == 422
    assert {"loc", "msg", "type"} == answer.json()["detail"][0].keys()
    assert body.get("password", "-----") not in answer.text


async def test_the_authorize_button_of_the_docs_works(demo: Server) -> None:
    """``/docs`` is there, and ``/openapi.json`` names the password flow that ``/token`` serves."""
    async with http(demo) as client:
        docs = await client.get("/docs")
        document = (await client.get("/openapi.json")).json()
        schemes = document["components"]["securitySchemes"]
        name, scheme = next((k, v) for k, v in schemes.items() if v["type"] == "oauth2")
        flow = scheme["flows"]["password"]
        # What Swagger UI posts when somebody presses Authorize.
        form = {"grant_type": "password", "username": "ann", "password": "wirebell-demo"}
        answer = await client.post("/" + flow["tokenUrl"].lstrip("/"), data=form)
        client.cookies.clear()
        used = await client.post("/ticket", headers=bearer(answer.json()["access_token"]))

    assert docs.status_code == 200
    operation = document["paths"]["/ticket"]["post"]
    assert any(name in need for need in operation["security"])
    assert used.status_code == 200


async def test_a_fresh_demo_says_that_it_has_demo_users(demo: Server) -> None:
    """The log names the accounts as demo accounts, and the page is told the password to show."""
    async with http(demo) as client:
        me = (await client.get("/me")).json()

    assert me == {"username": None, "demo_users": True, "demo_password": "wirebell-demo"}
    log = demo.log().lower()
    assert "ann" in log
    assert "bob" in log
    assert "demo account" in log or "demo user" in log


async def test_no_demo_users_leaves_them_out(tmp_path: Path) -> None:
    """With ``--no-demo-users`` nobody can sign in until somebody has registered."""
    with servers.demo(tmp_path, "--no-demo-users") as server:
        async with http(server) as client:
            form = {"username": "ann", "password": "wirebell-demo"}
            before = await client.post("/token", data=form)
            me = (await client.get("/me")).json()
            registered = await client.post("/register", json=form | {"password": "my own one"})
            after = await client.post("/token", data=form | {"password": "my own one"})
        log = server.log()

    assert before.status_code == 401
    assert (me["demo_users"], me["demo_password"]) == (False, None)
    assert (registered.status_code, after.status_code) == (201, 200)
    assert "wirebell-demo" not in log


FORGERIES: dict[str, Callable[[dict[str, Any], bytes], str]] = {
    "alg none": lambda c, _: (
        encoded('{"alg":"none","typ":"JWT"}') + "." + encoded(json.dumps(c)) + "."
    ),
    "alg None with the old signature": lambda c, k: (
        encoded('{"alg":"None","typ":"JWT"}') + jwt.encode(c, k, "HS256")[20:]
    ),
    "other key": lambda c, _: jwt.encode(c, b"k" * 64, "HS256"),
    "empty key": lambda c, _: signed_with_nothing(c),
    "other algorithm, right key": lambda c, k: jwt.encode(c, k, "HS384"),
    "other audience": lambda c, k: jwt.encode(c | {"aud": "somebody-else"}, k, "HS256"),
    "no audience": lambda c, k: jwt.encode({x: c[x] for x in c if x != "aud"}, k, "HS256"),
    "other issuer": lambda c, k: jwt.encode(c | {"iss": "somebody-else"}, k, "HS256"),
    "no issuer": lambda c, k: jwt.encode({x: c[x] for x in c if x != "iss"}, k, "HS256"),
    "expired": lambda c, k: jwt.encode(c | {"exp": c["iat"] - 10}, k, "HS256"),
    "no exp": lambda c, k: jwt.encode({x: c[x] for x in c if x != "exp"}, k, "HS256"),
    "no sub": lambda c, k: jwt.encode({x: c[x] for x in c if x != "sub"}, k, "HS256"),
    "no jti": lambda c, k: jwt.encode({x: c[x] for x in c if x != "jti"}, k, "HS256"),
    "exp is a text": lambda c, k: jwt.encode(c | {"exp": "tomorrow"}, k, "HS256"),
    "exp is a list": lambda c, k: jwt.encode(c | {"exp": [c["exp"]]}, k, "HS256"),
    "exp is beyond any calendar": lambda c, k: jwt.encode(c | {"exp": 10**30}, k, "HS256"),
    "sub is a number": lambda c, k: raw_token(c | {"sub": 5}, k),
    "sub is an object": lambda c, k: raw_token(c | {"sub": {"a": 1}}, k),
    "sub is empty": lambda c, k: jwt.encode(c | {"sub": ""}, k, "HS256"),
    "iat lies in the future": lambda c, k: jwt.encode(c | {"iat": c["exp"]}, k, "HS256"),
    "not before tomorrow": lambda c, k: jwt.encode(c | {"nbf": c["exp"]}, k, "HS256"),
    "payload is no object": lambda _, k: jwt.api_jws.encode(b"[1]", k, "HS256"),
    "payload is no JSON": lambda _, k: jwt.api_jws.encode(b"\xff{", k, "HS256"),
    "payload changed": lambda c, k: changed_payload(jwt.encode(c, k, "HS256")),
    "signature cut": lambda c, k: jwt.encode(c, k, "HS256")[:-3],
    "signature missing": lambda c, k: jwt.encode(c, k, "HS256").rsplit(".", 1)[0] + ".",
    "two parts": lambda c, k: jwt.encode(c, k, "HS256").rsplit(".", 1)[0],
    "garbage": lambda *_: "garbage",
    "dots": lambda *_: "..",
    "not base64": lambda *_: "é.ü.ö",
    "very long": lambda *_: "a" * 5_000,
}
"""Name → how to make it from good claims and the real secret."""


def raw_token(claims: dict[str, Any], key: bytes) -> str:
    """Sign claims that PyJWT would refuse to encode."""
    return jwt.api_jws.encode(json.dumps(claims).encode(), key, "HS256")


def signed_with_nothing(claims: dict[str, Any]) -> str:
    """Sign with the empty key, which PyJWT would refuse to do."""
    body = f"{encoded(json.dumps({'alg': 'HS256', 'typ': 'JWT'}))}.{encoded(json.dumps(claims))}"
    signature = hmac.digest(b"", body.encode(), "sha256")
    return f"{body}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def changed_payload(token: str) -> str:
    """Make ann's token bob's without the key."""
    head, payload, signature = token.split(".")
    text = base64.urlsafe_b64decode(payload + "==").decode()
    return f"{head}.{encoded(text.replace('ann', 'bob'))}.{signature}"


@pytest.mark.parametrize("name", FORGERIES)
async def test_a_forged_token_opens_nothing(demo: Server, data_dir: Path, name: str) -> None:
    """It is told why and closed 4401 on the socket, and is 401 over HTTP; the log stays clean."""
    async with http(demo) as client:
        good = await sign_in(client)
        claims = jwt.decode(good, options={"verify_signature": False})
        forged = FORGERIES[name](claims, find_secret(data_dir, good))
        errors, before = demo.log().count("Traceback"), len(demo.log())
        answer = None
        if forged.isascii():
            answer = await client.post("/ticket", headers=bearer(forged))
    async with connect(demo, "/ws/secure/tasks") as ws:
        await ws.send(forged)

        assert await told(ws, 4401)
    if answer is not None:
        assert answer.status_code == 401, answer.text
        async with connect(demo, "/ws/secure/tasks", additional_headers=bearer(forged)) as ws:
            assert await told(ws, 4401)
    assert forged not in demo.log()[before:]
    assert demo.log().count("Traceback") == errors


async def test_a_token_signed_here_by_the_same_rules_passes(demo: Server, data_dir: Path) -> None:
    """The forgeries above fail for what they forge: the same claims, signed again, are taken."""
    async with http(demo) as client:
        good = await sign_in(client)
    claims = jwt.decode(good, options={"verify_signature": False})
    again = jwt.encode(claims, find_secret(data_dir, good), "HS256")
    async with connect(demo, "/ws/secure/again", additional_headers=bearer(again)) as ws:
        await ws.send("hello")

        assert await receive(ws) == "ann: hello"

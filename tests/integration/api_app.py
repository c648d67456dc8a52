"""An application with the server API, for the tests of its real clients."""

from fastapi import FastAPI

from wirebell import History, Realtime, Settings
from wirebell.options import APIOptions, ClientOptions

rt = Realtime(
    Settings(),
    api=APIOptions(key="key-of-tests"),
    clients=ClientOptions(user_id_http_header="x-user", allow_anonymous_connect_without_token=True),
)
rt.channel("news:{topic}", history=History(size=10), public=True)
rt.channel("room:{room}", presence=True, public=True)
app = FastAPI(lifespan=rt.lifespan)
rt.mount(app, "/realtime")

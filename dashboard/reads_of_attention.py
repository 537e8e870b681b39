"""How the worst of all runs is, for the browser's tab; never cached, as alert states are not."""

import time

from ..platform.attention import Attention, attention
from ..platform.store import Store


def attention_now(store: Store) -> Attention:
    return attention(store, time.time())

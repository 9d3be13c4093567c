"""What the codes of the analyses say, in English and Chinese: one table, filled with numbers and nothing else."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from sparkle_lite.reasons import Reason

_WINDOW_EN, _WINDOW_ZH = " within {window_days} days", "（{window_days} 天内）"

# English is ASCII, because it stands in the lists that clients read.
SENTENCES: Mapping[str, Reason] = {
    "progress_cheater": Reason(
        "{people} people saw it cheat about its progress on {torrents} torrents on {days} days" + _WINDOW_EN,
        "{people} 人发现其谎报下载进度，涉及 {torrents} 个种子、{days} 天" + _WINDOW_ZH,
    ),
    "reported_peer": Reason(
        "{people} people banned it for its behaviour on {torrents} torrents on {days} days" + _WINDOW_EN,
        "{people} 人因其行为将其封禁，涉及 {torrents} 个种子、{days} 天" + _WINDOW_ZH,
    ),
    "multi_dialer": Reason(
        "{people} people reported {members} addresses of this /24, {sharing} of them on one torrent" + _WINDOW_EN,
        "{people} 人举报了此 /24 网段中的 {members} 个地址，其中 {sharing} 个在同一种子上" + _WINDOW_ZH,
    ),
    "multi_dialer_v6": Reason(
        "{people} people reported {members} subnets of this /56, {sharing} of them on one torrent" + _WINDOW_EN,
        "{people} 人举报了此 /56 网段中的 {members} 个 /64 子网，其中 {sharing} 个在同一种子上" + _WINDOW_ZH,
    ),
    "over_downloader": Reason(
        "took {percent}% of a torrent of {size} from {people} people ({taken} in all)" + _WINDOW_EN,
        "从 {people} 人处下载了 {size} 种子的 {percent}%（共 {taken}）" + _WINDOW_ZH,
    ),
    "concurrent_downloader": Reason(
        "downloaded {torrents} torrents within ten minutes as {people} people saw, giving nothing back",
        "{people} 人发现其在十分钟内同时下载 {torrents} 个种子且毫无回报",
    ),
    "mismatched_identity": Reason(
        "{people} people saw this client name on {addresses} addresses, {percent}% with another client's peer id",
        "{people} 人在 {addresses} 个地址上见到此客户端名称，其中 {percent}% 的 Peer ID 属于其他客户端",
    ),
    "random_identity": Reason(
        "{people} people saw peer ids of no known shape on {addresses} addresses that only take",
        "{people} 人在 {addresses} 个只下载的地址上见到不符合任何已知格式的 Peer ID",
    ),
}

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_PLACE = re.compile(r"\{(\w+)\}")


class _Template(NamedTuple):
    """A sentence that is quick to fill: a hundred thousand are told whenever a long list is published."""

    names: frozenset[str]
    en: str
    zh: str


def _template(sentence: Reason) -> _Template:
    en, zh = (_PLACE.sub(r"%(\1)s", text.replace("%", "%%")) for text in sentence)
    return _Template(frozenset(_PLACE.findall(sentence.en + sentence.zh)), en, zh)


_TEMPLATES = {code: _template(sentence) for code, sentence in SENTENCES.items()}


def tell(code: str, numbers: Mapping[str, int | float]) -> Reason | None:
    """The sentence of one of our codes; None for somebody else's, or when numbers are missing."""
    template = _TEMPLATES.get(code)
    if template is None:
        return None
    try:
        shown = {
            name: f"{numbers[name]:g}" if name in numbers else size(numbers[f"{name}_bytes"]) for name in template.names
        }
    except KeyError:
        return None
    return Reason(template.en % shown, template.zh % shown)


def size(value: float) -> str:
    """Bytes for people: 1.5 GiB."""
    unit = 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.3g} {_UNITS[unit]}"

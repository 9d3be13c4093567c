"""What is wrong with what an application sends, as one sentence in each language: what it is, and the cure.

Made of a code and its details; no text that a client sent is among them.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from sparkle_lite.reasons import date
from sparkle_lite.units import DAY_MS
from sparkle_lite.wire.dialect import Family

# What a sentence says beside its code: numbers, names of ours, and the sentence of a refusal.
Details = Mapping[str, int | str]


class Sentence(NamedTuple):
    """One plain sentence in English and Chinese, with its full stop."""

    en: str
    zh: str


_LISTS = {
    "peers": Sentence("list of peers", "peer 列表"),
    "bans": Sentence("list of bans", "封禁列表"),
    "histories": Sentence("list of histories", "历史列表"),
    "swarms": Sentence("list of swarms", "swarm 列表"),
}
# Why all rows of a list are rejected, and the cure.
_REJECTED = {
    "networks": Sentence(
        "they name whole networks; let the client report single addresses",
        "它们是网段而不是地址，请让客户端上报单个地址",
    ),
    "not_public": Sentence(
        "their addresses are not public; if its peers come through a proxy or the network of a container, let the"
        " downloader see their real addresses",
        "它们的地址不是公网地址；如果 peer 经由代理或容器网络连接，请让下载器看到其真实地址",
    ),
    "bad_address": Sentence(
        "their addresses can't be read; update the client, or tell its author",
        "无法识别它们的地址，请更新客户端或联系其作者",
    ),
    "bad_port": Sentence(
        "their ports are none; update the client, or tell its author", "它们的端口无效，请更新客户端或联系其作者"
    ),
    "bad_identifier": Sentence(
        "their torrent identifiers are missing or too long; update the client, or tell its author",
        "它们的种子标识缺失或过长，请更新客户端或联系其作者",
    ),
}
_UNREADABLE = Sentence(
    "they can't be read ({reason}); update the client, or tell its author",
    "无法读取这些数据（{reason}），请更新客户端或联系其作者",
)
_QBCB_NETWORKS = Sentence(
    "qBittorrent-ClientBlocker sends whole networks; set banIPCIDR to /32 and banIP6CIDR to /128 in its configuration",
    "qBittorrent-ClientBlocker 上报的是整个网段，请在其配置中将 banIPCIDR 设为 /32、banIP6CIDR 设为 /128",
)


def join(sentences: Iterable[Sentence]) -> Sentence:
    """Several sentences as one text."""
    every = list(sentences)
    return Sentence(" ".join(each.en for each in every), "".join(each.zh for each in every))


def sentence(code: str, details: Details, began_at: int) -> Sentence:
    """What is wrong, since when (ms) where that says something, and the cure."""
    match code:
        case "rejected":
            return _rejected(details)
        case "cut_off":
            return _cut_off(details)
        case "quota":
            return _quota(details)
        case "refused":
            name = _list(details)
            return Sentence(
                f"Its last {name.en} was refused: {details['en']}", f"其最近一次{name.zh}被拒绝：{details['zh']}"
            )
        case "no_peers":
            return Sentence(
                "qBittorrent-ClientBlocker has sent empty lists of peers only, as it does by default; set"
                ' "banByRelativeProgressUploaded" or "ipUploadedCheck" to true in its configuration.',
                "qBittorrent-ClientBlocker 一直只上报空的 peer 列表，这是其默认行为；请在其配置中将"
                " banByRelativeProgressUploaded 或 ipUploadedCheck 设为 true。",
            )
        case "clock":
            return _clock(int(details["off"]))
        case "old_rows":
            days = _days(int(details["off"]))
            return Sentence(
                f"All that it sends is {days.en} old or older; unless it is catching up on a long history, set the"
                " clock of the machine that it runs on.",
                f"它上报的所有内容都至少是 {days.zh}前的；如果不是在补报很长的历史记录，请校准其所在机器的时钟。",
            )
        case "no_evidence":
            return _no_evidence(details, began_at)
        case _:
            most = int(details["most"])
            return Sentence(
                f"It sends more than {most:,} requests a minute, and those beyond are refused (429); give each client"
                " an application of its own, or raise limits.requests_per_minute.",
                f"它每分钟发送的请求超过 {most:,} 个，超出的请求会被拒绝（429）；请为每个客户端使用单独的应用程序，"
                "或提高 limits.requests_per_minute。",
            )


def _list(details: Details) -> Sentence:
    return _LISTS[str(details["list"])]


def _rejected(details: Details) -> Sentence:
    name, reason, rows = _list(details), str(details["reason"]), int(details["rows"])
    why = _REJECTED.get(reason, _UNREADABLE)
    if reason == "networks" and details["family"] == Family.QBCB:
        why = _QBCB_NETWORKS
    return Sentence(
        f"All rows of its last {name.en} ({rows:,}) were rejected: {why.en.format(reason=reason)}.",
        f"其最近一次{name.zh}的全部 {rows:,} 行都被拒绝：{why.zh.format(reason=reason)}。",
    )


def _cut_off(details: Details) -> Sentence:
    name, rows = _list(details), int(details["rows"])
    en = f"Its last {name.en} is longer than this server takes, so only its first rows ({rows:,}) were stored"
    zh = f"其最近一次{name.zh}超出本服务器的上限，只保存了前 {rows:,} 行"
    if details["family"] == Family.QBCB and details["list"] != "bans":
        return Sentence(
            f"{en}: qBittorrent-ClientBlocker never empties that list; restart it.",
            f"{zh}：qBittorrent-ClientBlocker 从不清空该列表，请重启它。",
        )
    return Sentence(
        f"{en}; raise limits.max_rows_per_request or limits.max_inflated_size, or let it report in smaller parts.",
        f"{zh}；请提高 limits.max_rows_per_request 或 limits.max_inflated_size，或让其分批上报。",
    )


def _quota(details: Details) -> Sentence:
    name, rows, most = _list(details), int(details["rows"]), int(details["most"])
    return Sentence(
        f"{rows:,} rows of its last {name.en} were dropped, because today it has named {most:,} torrents and clients"
        " that nobody had named before; see what it reports, for no honest client meets so many, or wait for tomorrow"
        " (UTC).",
        f"其最近一次{name.zh}有 {rows:,} 行被丢弃，因为它今天已上报 {most:,} 个从未出现过的种子和客户端；正常的"
        "客户端不会遇到这么多，请检查它上报的内容，或等到明天（UTC）。",
    )


def _clock(off_ms: int) -> Sentence:
    days = _days(off_ms)
    ahead = off_ms > 0
    return Sentence(
        f"Its clock is {days.en} {'ahead of' if ahead else 'behind'} this server's; set the clock of the machine that"
        " it runs on.",
        f"其时钟比本服务器{'快' if ahead else '慢'} {days.zh}，请校准其所在机器的时钟。",
    )


def _days(off_ms: int) -> Sentence:
    days = abs(off_ms) // DAY_MS
    return Sentence("1 day" if days == 1 else f"{days:,} days", f"{days:,} 天")


def _no_evidence(details: Details, began_at: int) -> Sentence:
    en = f"None of the bans that it has sent since {date(began_at)} is evidence for an analysis"
    zh = f"自 {date(began_at)} 起，它上报的封禁都不能作为分析的证据"
    if details["family"] == Family.QBCB:
        return Sentence(
            f"{en}, because they repeat lists or judge by name; set"
            ' "banByRelativeProgressUploaded" to true in its configuration.',
            f"{zh}，因为它们只是重复名单或按名称判断；请在其配置中将 banByRelativeProgressUploaded 设为 true。",
        )
    return Sentence(
        f"{en}, because they repeat lists or judge by name; see that its progress check (ProgressCheatBlocker) is on.",
        f"{zh}，因为它们只是重复名单或按名称判断；请确认已启用其进度检查（ProgressCheatBlocker）。",
    )

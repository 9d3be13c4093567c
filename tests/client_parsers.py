"""What each client's own parser does with our documents, restated: what it dereferences and what makes it give up.

Every function takes the bytes of an answer and returns what the client would then work with, or raises ClientRejects
where the client would throw, drop the document or silently not run something. Nothing here uses the package's code for
the wire, so that a misunderstanding there shows.
"""

import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

UINT32 = (1 << 32) - 1


class ClientRejects(AssertionError):
    """The client would not work with this answer."""


def need(condition: object, reason: str) -> None:
    """Reject unless the condition holds."""
    if not condition:
        raise ClientRejects(reason)


def load(body: bytes) -> Any:
    """Parse JSON as every client does at least."""
    try:
        return json.loads(body)
    except ValueError as error:
        raise ClientRejects(f"no JSON: {error}") from error


# --- Configuration ----------------------------------------------------------------------------------------------------


@dataclass
class Configured:
    """What a client took out of a configuration: its abilities and the shape it will submit in."""

    shape: str
    abilities: dict[str, dict[str, Any]]


def _gson_long(node: Mapping[str, Any], key: str) -> int:
    value = node.get(key)
    need(value is not None and not isinstance(value, bool | dict | list), f"getAsLong on {key}={value!r}")
    try:
        return int(str(value))
    except ValueError as error:
        raise ClientRejects(f"{key}={value!r} is no long") from error


def _gson_string(node: Mapping[str, Any], key: str) -> str:
    value = node.get(key)
    need(isinstance(value, str | int | float), f"getAsString on {key}={value!r}")
    return str(value)


def _url(text: str) -> str:
    need(re.fullmatch(r"https?://[^\s?#]+", text), f"{text!r} is not an absolute URL without a query")
    return text


class _Ability(NamedTuple):
    """An ability, the shapes of a configuration that hold it, and the protocols of PeerBanHelper that read it there."""

    name: str
    shapes: tuple[str, ...]
    first: int = 3
    last: int = 999


_PBH_ABILITIES = (
    _Ability("submit_peers", ("legacy",)),
    _Ability("submit_bans", ("legacy", "between", "modern")),
    _Ability("submit_hitrate", ("legacy",), last=7),
    _Ability("submit_histories", ("legacy", "modern"), first=8),
    _Ability("submit_swarm", ("between", "modern"), first=11),
    _Ability("rules", ("legacy", "between"), last=13),
    _Ability("rules", ("legacy",), first=20),
    _Ability("rule_peer_identity", ("modern",), first=20),
    _Ability("ip_denylist", ("modern",), first=20),
    _Ability("ip_allowlist", ("modern",), first=20),
    _Ability("reconfigure", ("legacy", "between", "modern")),
    _Ability("heartbeat", ("legacy", "between", "modern"), first=12),
    _Ability("ip_query", ("legacy", "between", "modern"), first=20),
)


def pbh_config(body: bytes, protocol: int) -> Configured:
    """PeerBanHelper from 3.2 on, by its protocol number."""
    document = load(body)
    minimum, maximum = _gson_long(document, "min_protocol_version"), _gson_long(document, "max_protocol_version")
    if protocol <= 6:
        need(
            minimum <= protocol and maximum <= protocol, f"{minimum}..{maximum} is not for {protocol} (inverted check)"
        )
    else:
        need(minimum <= protocol <= maximum, f"{minimum}..{maximum} is not for {protocol}")
    shape = _pbh_shape(protocol, minimum)
    if protocol >= 20 and "proof_of_work_captcha" in document:
        need(isinstance(document["proof_of_work_captcha"], dict), "proof_of_work_captcha is null")
        _url(_gson_string(document["proof_of_work_captcha"], "endpoint"))
    offered = document.get("ability")
    need(isinstance(offered, dict), "no ability object")
    if "exception" in offered and 8 <= protocol <= 13:
        # 7.0.0 to 9.1.5 build the class of `reconfigure` from it under the other's name.
        _gson_string(offered["exception"], "version")
        raise ClientRejects("every check of a peer throws ClassCastException: no rule applies")
    taken = {
        ability.name: _pbh_ability(ability.name, offered[ability.name])
        for ability in _PBH_ABILITIES
        if ability.name in offered and ability.first <= protocol <= ability.last and shape in ability.shapes
    }
    unread = set(offered) - set(taken)
    need(not unread, f"offered in vain: {unread}")
    return Configured(shape, taken)


def _pbh_shape(protocol: int, minimum: int) -> str:
    if protocol >= 20:
        return "legacy" if minimum < 20 else "modern"
    return "legacy" if protocol < 11 or minimum <= 10 else "between"


def _pbh_ability(name: str, node: Any) -> dict[str, Any]:
    need(isinstance(node, dict), f"{name} is {node!r}")
    if name == "ip_query":
        need(node.get("iframe_endpoint", "") is not None, "iframe_endpoint is null")
        return {"endpoint": _url(_gson_string(node, "endpoint"))}
    need(_gson_long(node, "interval") > 0, f"{name} runs without a pause")
    need(_gson_long(node, "random_initial_delay") > 0, f"{name} never runs: nextLong(bound) throws")
    if name == "reconfigure":
        return {"version": _gson_string(node, "version")}
    if name == "heartbeat":
        need(node.get("multi_if") is True, "heartbeat without multi_if sends no credentials and fails on the answer")
    need(isinstance(node.get("pow_captcha", False), bool), f"pow_captcha={node.get('pow_captcha')!r}")
    return {"endpoint": _url(_gson_string(node, "endpoint"))}


def pbh_heartbeat(body: bytes) -> str:
    """The address that PeerBanHelper shows as its own."""
    return _gson_string(load(body), "external_ip")


# What PeerBanHelper's panel reads of an answer to `ip_query`: a key, and the type without which the page breaks.
_PANEL: dict[str, type | tuple[type, ...]] = {
    "color": str,
    "labels": list,
    "bans.duration": int,
    "bans.total": int,
    "bans.records": list,
    "swarms.duration": int,
    "swarms.total": int,
    "swarms.records": list,
    "swarms.concurrent_download_torrents_count": int,
    "swarms.concurrent_seeding_torrents_count": int,
    "traffic.duration": int,
    "traffic.to_peer_traffic": int,
    "traffic.from_peer_traffic": int,
    "traffic.share_ratio": (int, float),
    "torrents.duration": int,
    "torrents.count": int,
}
_PEER_RECORD = {
    "torrent": str,
    "peer_ip": str,
    "peer_port": int,
    "peer_progress": (int, float),
    "to_peer_traffic": int,
    "from_peer_traffic": int,
}
_BAN_RECORD = _PEER_RECORD | {
    "populate_time": int,
    "reporter_progress": (int, float),
    "module_name": str,
    "rule": str,
    "description": str,
}
_SWARM_RECORD = _PEER_RECORD | {
    "from_peer_traffic_offset": int,
    "to_peer_traffic_offset": int,
    "first_time_seen": int,
    "last_time_seen": int,
    "user_progress": (int, float),
}


def pbh_ip_query(body: bytes) -> dict[str, Any]:
    """What PeerBanHelper's panel shows of an address."""
    document = load(body)
    for path, kind in _PANEL.items():
        node = document
        for name in path.split("."):
            need(isinstance(node, dict) and node.get(name) is not None, f"{path} is missing")
            node = node[name]
        need(isinstance(node, kind) and not isinstance(node, bool), f"{path} is {node!r}")
    for records, shape in (("bans", _BAN_RECORD), ("swarms", _SWARM_RECORD)):
        for record in document[records]["records"]:
            for name, kind in shape.items():
                need(isinstance(record.get(name), kind), f"{records}: {name} is {record.get(name)!r}")
            need(isinstance(record.get("structured_data") or {}, dict), "structured_data is no object")
    return dict(document)


def qbcb_config(body: bytes) -> Configured:
    """qBittorrent-ClientBlocker: one Go struct for all abilities, and any type error rejects the document."""
    document = load(body)
    for key in ("min_protocol_version", "max_protocol_version"):
        _uint32(document, key)
    need(document["min_protocol_version"] <= 3 <= document["max_protocol_version"], "version mismatch")
    need(isinstance(document.get("ability"), dict), "no ability map")
    for name, node in document["ability"].items():
        _uint32(node, "interval")
        _uint32(node, "random_initial_delay")
        need(isinstance(node.get("version", ""), str), f"version of {name} is no string")
        _url(node.get("endpoint", ""))
    rules, exception = (document["ability"].get(name) for name in ("rules", "exception"))
    if rules and exception:
        # Each draws its own delay, and what rules ban before the exceptions have come stays banned for a day.
        timings = {(node["interval"], node["random_initial_delay"]) for node in (rules, exception)}
        need(timings == {(rules["interval"], 1)}, f"rules and exceptions come apart: {timings}")
    return Configured("legacy", document["ability"])


def _uint32(node: Mapping[str, Any], key: str) -> None:
    value = node.get(key, 0)
    need(type(value) is int and 0 <= value <= UINT32, f"{key}={value!r} is no uint32")


def rust_config(body: bytes) -> Configured:
    """PeerBanHelper-Rust: serde, absent is fine, null is not."""
    document = load(body)
    for name, node in document.get("ability", {}).items():
        need(isinstance(node, dict), f"{name} is {node!r}")
        need(type(node.get("interval", 1)) is int, f"interval of {name}")
        need(isinstance(node.get("version", ""), str), f"version of {name}")
        need(isinstance(node.get("multi_if", True), bool), f"multi_if of {name}")
        need("pow_captcha" not in node, "it never solves a proof of work")
        _url(node.get("endpoint", ""))
    names = set(document["ability"])
    need(not {"rules", "rule_peer_identity"} <= names, "two rule lists share one rev")
    return Configured("modern", document["ability"])


def libretorrent_config(body: bytes, protocol: int = 20) -> Configured:
    """LibreTorrentEE: its number must lie between the two, and then it uses what it knows."""
    document = load(body)
    minimum, maximum = document["min_protocol_version"], document["max_protocol_version"]
    need(minimum <= protocol <= maximum, f"{minimum}..{maximum} is not for {protocol}")
    known = {
        "submit_bans",
        "submit_swarm",
        "ip_denylist",
        "ip_allowlist",
        "rule_peer_identity",
        "heartbeat",
        "ip_query",
    }
    need(set(document["ability"]) <= known, f"offered in vain: {set(document['ability']) - known}")
    for name, node in document["ability"].items():
        need(node["interval"] > 0 and node["random_initial_delay"] > 0, f"{name} without a pause")
        _url(node["endpoint"])
    return Configured("modern", document["ability"])


def bitcomet_config(body: bytes) -> Configured:
    """BTNScriptBC: three abilities read without looking, and a loop over all of them."""
    document = load(body)
    offered = document["ability"]
    for name in ("submit_peers", "rules", "reconfigure"):
        need(name in offered, f"{name} is read without looking")
    for name, node in offered.items():
        need(node.get("interval", 0) > 0, f"{name} without interval makes it spin")
        need(node.get("random_initial_delay", 0) > 0, f"{name} without random_initial_delay")
        _url(node["endpoint"])
    need(len(offered["reconfigure"]["version"]) >= 8, "SubString(0,8) throws")
    return Configured("legacy", offered)


# --- Rules ------------------------------------------------------------------------------------------------------------


@dataclass
class Ruleset:
    """What a client bans: `bans` answers for a peer, the maps are for a closer look."""

    version: str
    peer_id: dict[str, list[Any]] = field(default_factory=dict)
    client_name: dict[str, list[Any]] = field(default_factory=dict)
    networks: dict[str, list[Any]] = field(default_factory=dict)
    ports: dict[str, list[Any]] = field(default_factory=dict)
    scripts: dict[str, str] = field(default_factory=dict)
    matches: Any = None

    def bans_address(self, address: str) -> bool:
        """Whether an address lies in any category."""
        ip = ipaddress.ip_address(address)
        return any(ip in network for networks in self.networks.values() for network in networks)

    def bans_name(self, name: str) -> bool:
        """Whether a client name matches any category."""
        return any(self.matches(category, name) for category in self.client_name.values())

    def bans_peer_id(self, peer_id: str) -> bool:
        """Whether a peer id matches any category."""
        return any(self.matches(category, peer_id) for category in self.peer_id.values())


def _version_of(document: Mapping[str, Any]) -> str:
    version = document.get("version")
    need(isinstance(version, str) and re.fullmatch("[0-9a-f]{8}", version), f"version {version!r}")
    return str(version)


def _texts_as_sent(document: Mapping[str, Any], network: Callable[[str], Any], matches: Any) -> Ruleset:
    """The rules of a client that keeps the texts of peer ids and names as they are; `network` reads an address."""
    return Ruleset(
        version=_version_of(document),
        peer_id=document["peer_id"],
        client_name=document["client_name"],
        networks={category: [network(line) for line in lines] for category, lines in document["ip"].items()},
        ports=document["port"],
        matches=matches,
    )


def pbh_rules(body: bytes, *, lowers_rule: bool = True, before_7: bool = False) -> Ruleset:
    """PeerBanHelper; `lowers_rule` False is a release before 3.3.6."""
    document = load(body)
    for name in ("peer_id", "client_name", "ip", "port", "script"):
        need(isinstance(document.get(name), dict), f"forEach on {name}={document.get(name)!r}")
    texts = {
        name: {c: [_pbh_rule(_gson_element(text)) for text in rules] for c, rules in document[name].items()}
        for name in ("peer_id", "client_name")
    }
    ports = {c: [int(str(port)) for port in found] for c, found in document["port"].items()}
    # 3.2.0 to 6.4.8 hand the peer's id to the matcher of ports, and the client's name to that of peer ids.
    need(not (before_7 and ports), "checkPortRule: NumberFormatException, and no rule applies")
    need(not (before_7 and texts["peer_id"]), "checkPeerIdRule looks at the client's name")
    return Ruleset(
        version=_version_of(document),
        peer_id=texts["peer_id"],
        client_name=texts["client_name"],
        networks={category: [_pbh_address(line) for line in lines] for category, lines in document["ip"].items()},
        ports=ports,
        scripts=document.get("script", {}),
        matches=lambda rules, text: _pbh_category(rules, text, lowers_rule),
    )


def _gson_element(text: Any) -> Any:
    need(isinstance(text, str), f"rule {text!r} is no string")
    element = load(text.encode())
    # Gson would take a bare word for a string, which means FALSE and disables its category.
    need(isinstance(element, dict), f"rule {text!r} is no object")
    return element


def _pbh_rule(rule: dict[str, Any]) -> dict[str, Any]:
    method = rule.get("method")
    if method == "LENGTH":
        need(all(type(rule.get(key)) is int for key in ("min", "max")), "LENGTH without min or max")
    else:
        need(method in ("STARTS_WITH", "ENDS_WITH", "CONTAINS", "EQUALS", "REGEX"), f"method {method!r}")
        need(isinstance(rule.get("content"), str), "no content")
    for key in ("hit", "miss"):
        need(rule.get(key, "TRUE") in ("TRUE", "FALSE", "DEFAULT"), f"{key}={rule.get(key)!r}")
    if isinstance(rule.get("if"), dict):
        _pbh_rule(rule["if"])
    return rule


def _pbh_category(rules: Iterable[dict[str, Any]], text: str, lowers_rule: bool) -> bool:
    found = False
    for rule in rules:
        result = _pbh_match(rule, text, lowers_rule)
        if result == "FALSE":
            return False
        found |= result == "TRUE"
    return found


def _pbh_match(rule: dict[str, Any], text: str, lowers_rule: bool) -> str:
    if "if" in rule and _pbh_match(rule["if"], text, lowers_rule) == "FALSE":
        return "FALSE"
    content = rule.get("content", "")
    lowered = content.lower() if lowers_rule else content
    tests: dict[str, Callable[[], bool]] = {
        "STARTS_WITH": lambda: text.lower().startswith(lowered),
        "ENDS_WITH": lambda: text.lower().endswith(lowered),
        "CONTAINS": lambda: lowered in text.lower(),
        "EQUALS": lambda: text.lower() == content.lower(),
        "REGEX": lambda: re.fullmatch(content, text) is not None,
        "LENGTH": lambda: rule["min"] <= len(text.encode("utf-16-le")) // 2 <= rule["max"],
    }
    hit = tests[rule["method"]]()
    # Some builds take a missing "miss" for FALSE: the worse of the two is what a document must stand.
    return str(rule.get("hit", "TRUE") if hit else rule.get("miss", "FALSE"))


def _pbh_address(line: Any) -> Any:
    need(isinstance(line, str) and line, f"address {line!r}")
    # A prefix over set host bits would be taken as a single address, an octet like 010 as octal, `-` and `*` as ranges.
    need(re.fullmatch(r"[0-9a-f:.]+(/\d+)?", line), f"{line!r} is not canonical")
    network = ipaddress.ip_network(line)
    need(line in (str(network), str(network.network_address)), f"{line!r} is not canonical")
    return network


def qbcb_rules(body: bytes) -> Ruleset:
    """qBittorrent-ClientBlocker: everything is a list of strings, else the document is rejected."""
    document = load(body)
    for name in ("peer_id", "client_name", "ip", "port"):
        for category, values in (document.get(name) or {}).items():
            need(all(isinstance(value, str) for value in values), f"{name}.{category} holds something but strings")
    for lines in document["ip"].values():
        need(all("/" in line or ":" not in line for line in lines), "a single IPv6 address is compared as text")
    return _texts_as_sent(
        document,
        ipaddress.ip_network,
        matches=lambda rules, text: any(_qbcb_match(rule, text) for rule in rules),
    )


def _qbcb_match(raw: str, text: str) -> bool:
    rule = json.loads(raw)
    content = rule["content"]
    method = rule["method"].upper()
    if method == "REGEX":
        return _expression_found(content, text)
    plain = {"EQUALS": text == content, "STARTS_WITH": text.startswith(content), "ENDS_WITH": text.endswith(content)}
    return bool(plain.get(method, method == "CONTAINS" and content in text))


def _expression_found(content: str, text: str) -> bool:
    """Any part, in any case; .NET's end of a text is spelled otherwise here, its classes are Unicode's as here."""
    return re.search(content.replace(r"\z", r"\Z"), text, re.IGNORECASE) is not None


def method_rules(body: bytes) -> Ruleset:
    """LibreTorrentEE, and whoever else reads nothing but method and content of a rule."""
    document = load(body)
    for name in ("peer_id", "client_name"):
        for rules in document[name].values():
            for text in rules:
                rule = json.loads(text)
                need(isinstance(rule.get("content"), str), f"no content in {text}")
    return _texts_as_sent(
        document,
        _pbh_address,
        matches=lambda rules, text: any(_method_match(json.loads(rule), text) for rule in rules),
    )


def _method_match(rule: Mapping[str, str], text: str) -> bool:
    if rule["method"] == "REGEX":
        return _expression_found(rule["content"], text)
    return _pbh_match({"method": rule["method"], "content": rule["content"]}, text, True) == "TRUE"


def rust_rules(body: bytes) -> Ruleset:
    """PeerBanHelper-Rust: ports are numbers, a null map is an error, a rule text is a substring in any case."""
    document = load(body)
    for name in ("peer_id", "client_name", "ip", "port"):
        need(isinstance(document.get(name, {}), dict), f"{name} is null")
    for ports in document["port"].values():
        need(all(type(port) is int for port in ports), "a port is no number")
    return _texts_as_sent(
        document,
        ipaddress.ip_network,
        matches=lambda rules, text: any(rule.lower() in text.lower() for rule in rules),
    )


def bitcomet_rules(body: bytes) -> Ruleset:
    """BTNScriptBC: the first run of eight hex digits is the version, and the list of addresses can't be empty."""
    document = load(body)
    found = re.search(r"[0-9a-f]{8}", body.decode())
    need(found is not None and found[0] == _version_of(document), "another run of eight hex digits comes first")
    need(any(document["ip"].values()), "no address")
    for name in ("peer_id", "client_name", "ip", "port", "script"):
        keys = [key.lower() for key in document[name]]
        need(len(keys) == len(set(keys)), "ConvertFrom-Json refuses keys that differ in case only")
    networks = {c: [ipaddress.ip_network(line) for line in lines] for c, lines in document["ip"].items()}
    return Ruleset(version=_version_of(document), networks=networks)


def address_list(body: bytes) -> list[tuple[Any, str]]:
    """A protocol 20 list of addresses, as PeerBanHelper reads it: each network with the reason shown to users."""
    found = []
    comments: list[str] = []
    for line in body.decode().split("\n"):
        if not line.strip():
            continue
        if line.startswith("#"):
            comments.append(line[1:])
            continue
        need("," not in line, f"{line!r} is taken as DAT")
        need(line == line.strip(), f"{line!r} has blanks around it")
        need(comments, f"{line!r} has no reason of its own")
        found.append((_pbh_address(line), "\n".join(comments).strip()))
        comments = []
    need(not comments, "a comment without an entry")
    return found

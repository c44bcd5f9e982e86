"""Base forms of past tenses, by rule and with the documents' own words as the dictionary."""

_IRREGULAR = dict(pair.split(":") for pair in """
    became:become began:begin broke:break brought:bring built:build bought:buy came:come caught:catch chose:choose
    did:do died:die lied:lie tied:tie drew:draw
    drove:drive fell:fall flew:fly fought:fight found:find gave:give got:get grew:grow
    held:hold
    kept:keep knew:know laid:lay led:lead left:leave lost:lose made:make met:meet paid:pay ran:run rose:rise said:say
    sang:sing sat:sit saw:see sent:send set:set shot:shoot shut:shut sold:sell spent:spend spoke:speak stood:stand
    struck:strike swam:swim swore:swear taught:teach took:take threw:throw told:tell thought:think understood:understand
    went:go withdrew:withdraw won:win wore:wear wrote:write overtook:overtake undertook:undertake overthrew:overthrow
    sought:seek hit:hit put:put cut:cut split:split cost:cost arose:arise oversaw:oversee rebuilt:rebuild forbade:forbid
""".split())


# small collections may lack these
_COMMON = frozenset("""
    abandon abolish accept acquire adopt announce appear appoint approve arrive attack attend award ban change close
    collapse collect complete compose conquer construct consist cover create declare defeat deliver describe design
    destroy develop die direct discover earn elect employ end enter establish expand explore finish form found gain
    graduate happen host improve increase install introduce invade invent issue join kill land last launch live marry
    merge move
    name occur offer open order organise organize own paint pass perform plan plant play premiere present print produce
    propose publish purchase reach receive record reform release remain remove rename renovate repair replace resign
    restore retire return settle ship sign start stop study succeed support surrender train travel use visit win work
""".split())


_BEFORE_E = ("at", "iz", "is", "uc", "ut", "v", "rg", "dg", "nc", "us", "ag", "in", "ir", "ur", "os", "uid")


def base_form(past: str, known: set[str]) -> str:
    """The base form of a past tense ("moved" -> "move"); "" where neither a rule nor a known word tells.

    known: words that stand in the documents in lower case; of several forms that could be, one of these is taken.
    """
    if past in _IRREGULAR:
        return _IRREGULAR[past]
    if not past.endswith("ed") or len(past) < 5:
        return ""
    stem = past[:-2]
    if past.endswith("ied"):
        return f"{past[:-3]}y"
    candidates = [stem, f"{stem}e", *([stem[:-1]] if stem[-1] == stem[-2] else [])]
    found = [word for word in candidates if word in known or word in _COMMON]
    if len(found) == 1:
        return found[0]
    # "stated" of a text that has "stat" and "state": an e belongs after most of these endings
    takes_e = stem.endswith(_BEFORE_E)
    return next((word for word in found if word.endswith("e") == takes_e), found[0] if found else "")

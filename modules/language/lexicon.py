"""Verbs and templates for every primitive motion, written for this project (LocoMotion's are not public).

A verb may imply more than its primitive: ^s slow, ^f fast, ^h a short distance, ^l a long distance. Such a verb is only used to
express this fact. The first verb of a row is the plain one.

Templates: <v> is the verb, <word> another verb in the same form; {dir} a direction, {side} left, right, top or bottom, {sense}
clockwise or anticlockwise. The subject precedes the template unless it contains {a} and {b}.
"""

from typing import NamedTuple

IMPLIED = {"s": "S.slow", "f": "S.fast", "h": "D.short", "l": "D.long"}


class Verb(NamedTuple):
    """A verb in its base form, and the primitives that it implies in addition to its own."""

    base: str
    implies: frozenset[str]

    @property
    def held_out(self) -> bool:
        """Whether the verb is excluded from training, to test on unseen verbs."""
        return self.base in HELD_OUT


class Row(NamedTuple):
    """Templates and verbs of one primitive."""

    templates: tuple[str, ...]
    verbs: tuple[Verb, ...]


def _row(templates: str, verbs: str) -> Row:
    made = []
    for word in verbs.split(", "):
        base, _, marks = word.partition("^")
        made.append(Verb(base, frozenset(IMPLIED[mark] for mark in marks)))
    return Row(tuple(templates.split(" | ")), tuple(made))


_SIDEWAYS = _row("<v> {dir}", "move, slide, shift, travel, head, glide, skim, drift^s, dart^f, sweep^l")
_SLANTING_UP = _row("<v> {dir}", "move, climb, rise, go, slant, head, mount, float^s, soar^f")
_SLANTING_DOWN = _row("<v> {dir}", "move, fall, descend, go, slip, head, skid, sink^s, dive^f")
_TURNING = _row("<v> {sense}", "turn, rotate, revolve, twist, swivel, pivot")

ROWS: dict[str, Row] = {
    "T.right": _SIDEWAYS,
    "T.left": _SIDEWAYS,
    "T.up": _row("<v> | <v> towards the top", "move up, rise, ascend, climb, go up, lift, float up^s, shoot up^f"),
    "T.down": _row("<v> | <v> towards the bottom", "move down, fall, drop, descend, go down, subside, sink^s, plunge^f"),
    "T.upright": _SLANTING_UP,
    "T.upleft": _SLANTING_UP,
    "T.downright": _SLANTING_DOWN,
    "T.downleft": _SLANTING_DOWN,
    "S.slow": _row("<v> {dir}", "creep^s, crawl^s, drift^s, inch^sh, ease^s, amble^s, plod^s"),
    "S.fast": _row("<v> {dir}", "rush^f, dart^f, zoom^f, race^f, shoot^f, dash^f, whizz^f, hurtle^f"),
    "S.steady": _row("<v> {dir}", "cruise, glide, proceed, coast, continue"),
    "S.faster": _row(
        "<v> as it goes {dir} | <start> slowly and <v> on its way {dir}",
        "speed up, accelerate, pick up speed, quicken, gain speed",
    ),
    "S.slower": _row(
        "<v> as it goes {dir} | <start> fast and <v> on its way {dir}",
        "slow down, decelerate, brake, ease off, lose speed",
    ),
    "D.short": _row("<v> {dir}", "shift, nudge^h, edge^h, budge^h, twitch^h, inch^sh"),
    "D.long": _row("<v> {dir}", "travel, sail^l, sweep^l, journey^l, roam^l"),
    "P.still": _row("<v>", "stay in place, remain in place, rest in place, stand still, wait in place, linger"),
    "P.start": _row(
        "<wait> and then <v> {dir} | <v> {dir} after a pause",
        "move, start, set off, depart, get going, head off",
    ),
    "P.stop": _row("<move> {dir} and <v> | <v> after moving {dir}", "stop, halt, come to rest, settle, come to a standstill"),
    "P.stopgo": _row(
        "<v> on its way {dir}",
        "pause, stop and go on, hesitate, halt and resume, take a break",
    ),
    "C.straight": _row("<v> straight {dir} | <v> {dir} in a straight line", "move, go, march, travel, head"),
    "C.curve": _row("<v> {dir} along a curve | <v> {dir} in an arc", "move, curve, bend, swerve, swing round"),
    "C.zigzag": _row("<v> {dir}", "zigzag, weave, snake, wind its way, meander"),
    "C.loop": _row("<v> {sense}", "circle, loop, go round, run in a circle, orbit"),
    "C.shuttle": _row("<v> {axis}", "move, swing, shuttle, oscillate, go back and forth, sway^s, shake^f"),
    "C.return": _row("<move> {dir} and <v>", "return, come back, go back, double back, retreat"),
    "C.turn": _row("<go> {dir} and <v> {dir2}", "turn, veer, swing, swerve, branch off"),
    "C.bounce": _row("<v> to the {side} | <drop> and <v> to the {side}", "bounce, rebound, spring back, bound up, hop up"),
    "C.jump": _row("<v> to the {side}", "jump, leap, hop, spring, vault"),
    "R.cw": _TURNING,
    "R.ccw": _TURNING,
    "R.tilt": _row("<v> to the {side} | <v> over to the {side}", "tilt, lean, tip, slant, incline"),
    "R.full": _row("<v> all the way round {sense} | <v> through a full turn {sense}", "spin, turn, whirl, twirl, pirouette"),
    "R.rock": _row("<v> from side to side on the spot", "rock, wobble, sway, teeter, wiggle"),
    "Z.grow": _row("<v>", "grow, expand, get bigger, come closer, approach, balloon"),
    "Z.shrink": _row("<v>", "shrink, contract, get smaller, recede, back away, dwindle"),
    "Z.pulse": _row("<v>", "pulse, throb, swell and shrink, expand and contract, breathe"),
    "V.enter": _row("<v> from the {side}", "enter, come in, appear, slide in, pop in"),
    "V.leave": _row("<v> at the {side}", "leave, exit, go out, disappear, slip out, move out of view"),
    "K.roll": _row("<v> to the {side}", "roll, trundle, tumble, wheel, roll along"),
    "K.spinmove": _row("<v> {dir}, spinning {sense} | <v> {dir} while turning {sense}", "move, fly, travel, whirl, tumble"),
    "K.flyaway": _row("<v>", "fly off, float away, lift off, jet off, drift off"),
    "L.approach": _row(
        "{a} and {b} <v*>",
        "approach each other, move together, converge, draw closer, close in on each other",
    ),
    "L.apart": _row("{a} and {b} <v*>", "move apart, separate, part, diverge, pull apart"),
    "L.follow": _row("{b} <v> {a} {dir}", "follow, trail, pursue, go after, tail"),
    "L.parallel": _row("{a} and {b} <v*> {dir} side by side", "move, travel, glide, go, slide"),
    "L.opposite": _row("{a} <v> {dir} while {b} <v> {dir2}", "move, head, go, slide, travel"),
    "L.cross": _row("{a} <v> {b}", "pass over, cross, move in front of, traverse, slide over"),
    "L.pass": _row("{a} <v> {b} on its way {dir}", "pass, overtake, get ahead of, go past, move past"),
    "L.hit": _row("{a} <v> {b}, which then moves {dir}", "hit, push, bump into, knock, strike"),
    "L.order": _row(
        "first {a} <v> {dir}, then {b} <v> {dir2} | {a} <v> {dir} before {b} <v> {dir2} | {b} <v> {dir2} after {a} <v> {dir}",
        "move, shift, go, head, slide",
    ),
    "L.onemoves": _row("{a} <v> {dir} while {b} stays put", "move, slide, go, pass, travel"),
    "M.move": _row("<v>", "move, go along, shift, travel, change place"),
}
"""M.move is used if nothing more specific is true of a motion, for example after a crop."""

# fmt: off
HELD_OUT = frozenset((
    "skim", "mount", "skid", "ascend", "subside", "plod", "hurtle", "depart", "settle", "march", "swerve", "meander",
    "orbit", "oscillate", "retreat", "veer", "rebound", "vault", "pivot", "revolve", "incline", "pirouette", "teeter",
    "balloon", "dwindle", "pop in", "exit", "trundle", "tumble", "jet off", "converge", "diverge", "pursue", "overtake",
))
# fmt: on
"""Verbs that are only used for testing, one in most rows."""

# fmt: off
TRANSITIVE = frozenset((
    "move", "slide", "shift", "turn", "rotate", "twist", "swivel", "pivot", "drop", "lift", "tilt", "tip", "roll", "spin",
))
# fmt: on
"""Verbs that are also transitive: 'sliding a cup to the right'."""

NOUNS = {
    "move": "move",
    "slide": "slide",
    "shift": "shift",
    "drift": "drift",
    "climb": "climb",
    "rise": "rise",
    "ascend": "ascent",
    "fall": "fall",
    "drop": "drop",
    "descend": "descent",
    "rotate": "rotation",
    "turn": "turn",
    "revolve": "revolution",
    "twist": "twist",
}
"""Nouns derived from verbs, for captions such as 'a leftward slide of a cup'."""

DIRECTIONS: dict[str, tuple[str, ...]] = {
    "right": ("to the right", "rightward", "towards the right"),
    "left": ("to the left", "leftward", "towards the left"),
    "up": ("up", "upward", "towards the top"),
    "down": ("down", "downward", "towards the bottom"),
    "upright": ("up and to the right", "towards the top right"),
    "upleft": ("up and to the left", "towards the top left"),
    "downright": ("down and to the right", "towards the bottom right"),
    "downleft": ("down and to the left", "towards the bottom left"),
}
"""The first is the plain one."""
ADJECTIVES = {"right": "rightward", "left": "leftward", "up": "upward", "down": "downward"}
SENSES = {"clockwise": ("clockwise", "clockwise"), "anticlockwise": ("counterclockwise", "anticlockwise")}
AXES = {"sideways": ("from side to side",), "upright": ("up and down",)}

REGIONS = {"left": "left side", "right": "right side"}
"""Words for regions of the frame, if they differ from the names."""

MODIFIERS: dict[str, tuple[str, ...]] = {
    "S.slow": ("slowly", "gradually", "gently", "at a low speed"),
    "S.fast": ("quickly", "fast", "rapidly", "swiftly", "at speed"),
    "S.steady": ("at a constant pace", "steadily"),
    "S.faster": ("faster and faster", "with growing speed"),
    "S.slower": ("ever more slowly", "with falling speed"),
    "D.short": ("a little", "slightly", "a short way"),
    "D.long": ("a long way", "far"),
    "C.straight": ("in a straight line", "straight"),
    "C.curve": ("along a curve", "in an arc"),
    "G.from": ("starting at the {region}", "coming from the {region}", "leaving the {region}"),
    "G.to": ("ending at the {region}", "reaching the {region}", "arriving at the {region}"),
    "Z.grow": ("and growing", "while growing"),
    "Z.shrink": ("and shrinking", "while shrinking"),
}
"""Phrases that can be added to a clause about a motion. The first is the plain one."""

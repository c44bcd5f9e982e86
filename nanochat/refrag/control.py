"""What monitors may do to a running training: say it, halve the rate, hold the policy tighter, roll back, pause."""

from collections.abc import Callable, Mapping
from typing import Any

from nanochat.refrag.monitors import HALVE, NOTE, PAUSE, RAISE_GUARD, RAISE_KL, ROLL_BACK, Alarm, Monitors
from nanochat.refrag.policy_loss import LossSettings

WORDS = {
    NOTE: "nothing is changed",
    HALVE: "the rate is halved",
    RAISE_KL: "the weight of the divergence is doubled",
    RAISE_GUARD: "the weight of the likelihood guard is doubled",
    ROLL_BACK: "back to the best checkpoint, with half the rate",
    PAUSE: "training pauses",
}
LEAST_KL, LEAST_GUARD = 0.01, 1.0  # what doubling makes of no weight


class Control:
    """Acts on alarms. `mode`: "act"; "say" only prints and records them; "off" does not look.

    `loss` is changed in place, from the weights that it has now; `rate` is a factor for the learning rate; `roll_back`
    loads the best weights and is called when an alarm asks for it.
    """

    def __init__(
        self, loss: LossSettings, *, mode: str = "act", roll_back: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.loss, self.mode, self.roll_back, self.say = loss, mode, roll_back, say
        self.monitors = Monitors()
        self.rate = 1.0
        self.paused = ""  # why, once it has
        self.alarms: list[Alarm] = []
        self.num_alarms = 0  # those of before a resumed run went on, too
        self._given = loss.kl, loss.guard
        self._doubled = {RAISE_KL: 0, RAISE_GUARD: 0}  # how often each weight was

    def update(self, step: int, numbers: Mapping[str, float]) -> list[Alarm]:
        """After an update: look at its numbers and act."""
        return [] if self.mode == "off" else self._act(self.monitors.update(step, numbers))

    def evaluated(self, step: int, metrics: Mapping[str, Any]) -> list[Alarm]:
        """After an evaluation on the development set: look at it and act."""
        if self.mode == "off":
            # what training has gained is told all the same
            self.monitors.history.add_dev(metrics)
            return []
        return self._act(self.monitors.evaluated(step, metrics))

    def record(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"monitors": self.monitors.record(), "rate": self.rate, "doubled": self._doubled,
                "num_alarms": self.num_alarms}

    def restore(self, record: Mapping[str, Any]) -> None:
        """Go on where `record` was taken: what alarms have doubled is double of the settings of now."""
        self.monitors.restore(record.get("monitors", {}))
        self.rate, self.num_alarms = float(record.get("rate", 1.0)), int(record.get("num_alarms", 0))
        self._doubled |= record.get("doubled", {})
        self._weigh()

    def _act(self, alarms: list[Alarm]) -> list[Alarm]:
        # the strongest first; after a roll back or a pause the others speak of weights that are gone
        alarms = sorted(alarms, key=lambda alarm: _STRENGTH.index(alarm.action))[:1] if any(
            alarm.action in (PAUSE, ROLL_BACK) for alarm in alarms) else alarms
        for alarm in alarms:
            done = WORDS[alarm.action] if self.mode == "act" else f"{WORDS[alarm.action]} with --monitors act"
            self.say(f"Alarm at step {alarm.step}, {alarm.signal}: {alarm.text}; {done}")
            self.alarms.append(alarm)
            self.num_alarms += 1
            if self.mode == "act":
                self._do(alarm)
        return alarms

    def _do(self, alarm: Alarm) -> None:
        if alarm.action == PAUSE:
            self.paused = f"{alarm.signal}: {alarm.text}"
        elif alarm.action == ROLL_BACK:
            self.rate /= 2
            self.roll_back()
            self.monitors.rolled_back()
        elif alarm.action == HALVE:
            self.rate /= 2
        elif alarm.action in self._doubled:
            self._doubled[alarm.action] += 1
            self._weigh()

    def _weigh(self) -> None:
        self.loss.kl, self.loss.guard = (
            2**times * (given or least / 2) if times else given
            for times, given, least in zip(self._doubled.values(), self._given, (LEAST_KL, LEAST_GUARD), strict=True))


_STRENGTH = (PAUSE, ROLL_BACK, HALVE, RAISE_KL, RAISE_GUARD, NOTE)

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
LEAST_KL = 0.01  # what doubling starts from where the divergence had no weight


class Control:
    """Acts on alarms. `mode`: "act"; "say" only prints and records them; "off" does not look.

    `loss` is changed in place, `rate` is a factor for the learning rate, `roll_back` loads the best weights and is
    called when an alarm asks for it.
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
        return {"monitors": self.monitors.record(), "rate": self.rate, "kl": self.loss.kl, "guard": self.loss.guard}

    def restore(self, record: Mapping[str, Any], *, kl: float, guard: float) -> None:
        """Go on where `record` was taken; kl and guard are the settings, kept where alarms have not raised them."""
        self.monitors.restore(record.get("monitors", {}))
        self.rate = float(record.get("rate", 1.0))
        self.loss.kl, self.loss.guard = max(kl, record.get("kl", 0.0)), max(guard, record.get("guard", 0.0))

    def _act(self, alarms: list[Alarm]) -> list[Alarm]:
        # the strongest first; after a roll back or a pause the others speak of weights that are gone
        alarms = sorted(alarms, key=lambda alarm: _STRENGTH.index(alarm.action))[:1] if any(
            alarm.action in (PAUSE, ROLL_BACK) for alarm in alarms) else alarms
        for alarm in alarms:
            done = WORDS[alarm.action] if self.mode == "act" else f"{WORDS[alarm.action]} with --monitors act"
            self.say(f"Alarm at step {alarm.step}, {alarm.signal}: {alarm.text}; {done}")
            self.alarms.append(alarm)
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
        elif alarm.action == RAISE_KL:
            self.loss.kl = max(LEAST_KL, 2 * self.loss.kl)
        elif alarm.action == RAISE_GUARD:
            self.loss.guard = 2 * self.loss.guard or 1.0


_STRENGTH = (PAUSE, ROLL_BACK, HALVE, RAISE_KL, RAISE_GUARD, NOTE)

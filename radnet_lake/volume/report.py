"""The report of a preprocessing: its sums come in, lines for a person go out."""

from collections import Counter
from dataclasses import dataclass, field

from radnet_lake import schema
from radnet_lake.progress import list_failures


@dataclass
class PreprocessReport:
    """What a preprocessing did so far. wanted = made + failed + known.

    stale: what is newer than the labels, or ''. known: of these `known_failed` without a volume.
    reasons: of the series that failed now. size_bytes: of the new shards.
    """

    lake: str
    preprocessing: str
    stale: str = ""
    wanted: int = 0
    known: int = 0
    known_failed: int = 0
    made: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    size_bytes: int = 0
    seconds: float = 0.0

    @property
    def failed(self) -> int:
        return self.reasons.total()

    @property
    def passing(self) -> int:
        """Of these, failures that the next run tries again."""
        return sum(self.reasons[reason] for reason in schema.TRANSIENT_REASONS)

    def __str__(self) -> str:
        """The sums that must match, failures by reason, what to type next."""
        done = self.made + self.failed
        rate = f", {done / self.seconds:.1f} volumes/s" if done else ""
        lines = [
            f"lake      {self.lake}",
            f"volumes   tensors/{self.preprocessing}, {self.seconds:.1f} s{rate}",
            f"wanted    {self.wanted} series = {self.made} made + {self.failed} failed"
            f" + {self.known} known",
        ]
        if self.made:
            lines.append(f"stored    {self.size_bytes / 1e6:.1f} MB")
        lines += list_failures(self.reasons, schema.VOLUME_REASONS)
        if self.passing:
            lines.append(
                f"passing   {self.passing} of these are tried again next time; where files changed"
                " or\n          are gone for good, harvest again, with --prune"
            )
        if self.known_failed:
            lines.append(
                f"known     {self.known_failed} of these failed before; --retry tries them again"
            )
        if self.failed > self.passing:
            lines.append(
                "excluded  by the next radnet-lake label: until then training_set lists what failed"
            )
        if self.failed > self.passing or self.stale:
            lines.append(f"next      radnet-lake label --lake {self.lake}")
        else:
            lines.append(f'next      radnet-lake query --lake {self.lake} "from volumes limit 5"')
        return "\n".join(lines)

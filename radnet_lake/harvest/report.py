"""Takes the sums of a harvest, gives its report as text."""

from dataclasses import dataclass


@dataclass(frozen=True)
class HarvestReport:
    """Sums of a harvest, with what its second pass read again for words new in the vocabulary."""

    lake: str
    run_id: str
    sums: dict[str, int]
    reject_reasons: dict[str, int]
    words_allowed: int
    files_read_again: int
    seconds: float

    def __str__(self) -> str:
        """Report -> lines: sums, rejects by reason, the next command."""
        s = self.sums
        rate = s["files_listed"] / self.seconds if self.seconds else 0
        archives = f", {s['archives']} of them archives" if s["archives"] else ""
        lines = [
            f"lake      {self.lake}",
            f"run       {self.run_id}, {self.seconds:.1f} s, {rate:.0f} files/s",
            f"listed    {s['files_listed']} files, {s['bytes_listed'] / 1e6:.1f} MB{archives}",
            f"seen      {s['objects_seen']} objects = {s['instances']} instances"
            f" + {s['rejects']} rejects + {s['known']} known",
            f"rows      {s['rows']} (one per frame)",
        ]
        if s["superseded"]:
            lines.append(f"changed   {s['superseded']} files; their old rows no longer count")
        if s["vanished"]:
            lines.append(f"vanished  {s['vanished']} files; their rows no longer count")
        for reason, count in self.reject_reasons.items():
            lines.append(f"reject    {count:>8}  {reason}")
        if self.words_allowed:
            lines.append(
                f"words     {self.words_allowed} more words occur in 5 patients or more and are"
                f" kept now; {self.files_read_again} objects were read again for them"
            )
        lines.append(f'next      radnet-lake query --lake {self.lake} "from runs"')
        return "\n".join(lines)

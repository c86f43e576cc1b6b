"""What a report says of one study."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Verdict:
    """What one setting says about one claim.

    Attributes:
        claim: its key in the file of its study.
        model: the model, or what stands for several.
        setting: quantizer, widths and score.
        verdict: "holds", "does not hold" or "undecided".
        number: the number that decides, as text.
        ids: of the rows behind it.
    """

    claim: str
    model: str
    setting: str
    verdict: str
    number: str
    ids: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """A figure that is drawn when the page is made.

    Attributes:
        draw: called with `arguments`; its name and `what` name the file.
        what: what of the study is shown, such as a model.
        alt: what a reader sees in it, in a sentence.
        rows: which rows made it.
        floor: model and text whose noise floor is drawn into it, where KL is on its axis.
    """

    draw: "Callable[..., Figure]"
    arguments: tuple[Any, ...]
    what: str
    alt: str
    rows: str
    floor: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Section:
    """All that a report says of one study; its template prints it.

    Attributes:
        verdicts: on each claim of the study, in each setting.
        tables: name -> lines of a table of the section.
        counts: name -> what its sentences count.
        figures: group -> pictures that stand together.
    """

    verdicts: Sequence[Verdict] = ()
    tables: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Sequence[Picture]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether there is anything to say: some figure, verdict or line of a table."""
        return bool(self.verdicts or any(self.figures.values()) or any(self.tables.values()))

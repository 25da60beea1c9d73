"""Write the README's performance section, and its charts, from the recorded runs.

    python benchmarks/readme.py

They are recorded, on a machine with nothing else to do, by

    numbaconv compare --threads 1 2 --json benchmarks/results/public.json
    numbaconv compare --train --threads 1 2 --json benchmarks/results/models.json
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from statistics import median

from numbaconv.study.reading import PASSES, Setting, by_setting, count, hardest, layer_cells, model_cells, peers, said
from numbaconv.study.results import OURS, Cell, Study, geomean
from numbaconv.study.tables import EVEN, microseconds

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
RECORDED = RESULTS / "public.json"
MODELS = RESULTS / "models.json"
#: The chart that the README shows.
CHART = "ratio-NCHW-2-threads.svg"
#: Cores that a library kept busy on average, below which its threads shared one.
ALONE = 1.25
BEGIN, END = "<!-- written by benchmarks/readme.py -->\n", "<!-- end -->\n"


def section(study: Study, trained: Study) -> str:
    """What the README says about the layers of a run, and about the models of another."""
    cells = layer_cells(study)
    machine, settings = study.machine, study.settings
    peaks = " and ".join(f"{value:.0f} GFLOP/s on {count(int(n), 'thread')}" for n, value in study.peak.items())
    lines = [
        f"Recorded on {settings['date'][:10]}: {machine['CPU']}, {machine['cores'].split()[0]} cores, vectors of "
        f"{machine['vectors'].split(':')[0]}; {peaks} is the most that its multiply-adds can do. "
        f"{settings['rounds']} rounds; {settings['disturbed by other programs']} were disturbed by other programs.",
        "",
        f"**Their time over ours** (above 1, numbaconv is faster), geometric means over the {len(names(cells))} layers "
        "of the suite and all passes that a library has. In brackets: cells lost, of all.",
        "",
        *means(cells, study),
        "",
        "**Every layer, on the most threads**: the time of PyTorch over ours in the same layout. Losses are in bold.",
        "",
        *layers(cells),
        "",
        *losses(cells),
        "",
        *models(trained),
        "",
        f"![Time of other libraries over numbaconv's, for every layer and pass](benchmarks/results/{CHART})",
        "",
    ]
    return "\n".join(lines)


def names(cells: list[Cell]) -> list[str]:
    """Layers, in the order of the suite."""
    return list(dict.fromkeys(cell.name for cell in cells))


def means(cells: list[Cell], study: Study) -> list[str]:
    """A row for each setting, a column for each peer."""
    found = peers(cells)
    rows = [[setting(key), *(mean(part, peer) for peer in found)] for key, part in by_setting(cells).items()]
    return table(["", *(f"{peer} {study.versions[peer]}" for peer in found)], rows)


def setting(key: Setting) -> str:
    return f"{key[1]}, {count(key[0], 'thread')}"


def mean(cells: list[Cell], peer: str) -> str:
    ratios = [cell.ratio(peer) for cell in cells if cell.ratio(peer) > 0 and not alone(cell, peer)]
    return f"{geomean(ratios):.2f} ({sum(ratio < 1 - EVEN for ratio in ratios)}/{len(ratios)})" if ratios else "–"


def layers(cells: list[Cell]) -> list[str]:
    """A row for each layer, a column for each layout and pass."""
    most = max(cell.threads for cell in cells)
    found = {(c.name, c.layout, c.work): c for c in cells if c.threads == most}
    columns = [(layout, work) for layout in ("NCHW", "NHWC") for work in PASSES]
    rows = [[name, *(against_torch(found.get((name, *column))) for column in columns)] for name in names(cells)]
    lines = table(["", *(f"{layout} {said(work)}" for layout, work in columns)], rows)
    note = "† PyTorch's threads kept to one core in most rounds, so this says little, and is in no mean."
    return [*lines, "", note] if any("†" in line for line in lines) else lines


def against_torch(cell: Cell | None) -> str:
    if cell is None or not cell.ratio("torch") > 0:
        return "–"
    text = against(cell, "torch")
    return text + " †" if alone(cell, "torch") else text


def against(cell: Cell, peer: str) -> str:
    ratio = cell.ratio(peer)
    if not ratio > 0:
        return "–"
    return f"**{ratio:.2f}**" if ratio < 1 - EVEN else f"{ratio:.2f}"


def alone(cell: Cell, peer: str) -> bool:
    """Whether the threads of a library shared one core in most rounds."""
    timing = cell.timings[peer]
    return timing.threads > 1 and median(timing.busy) < ALONE


def losses(cells: list[Cell]) -> list[str]:
    """How often some peer is faster, and where most."""
    compared = sorted(((*hardest(cell), cell) for cell in cells if hardest(cell)[0]), key=lambda item: item[1])
    lost = [item for item in compared if item[1] < 1 - EVEN]
    if not lost:
        return [f"No peer is faster in any of the {len(compared)} cells."]
    worst = ", ".join(
        f"{cell.name} {said(cell.work)} ({setting((cell.threads, cell.layout))}: "
        f"{microseconds(cell.seconds(OURS))} µs, {peer} {microseconds(cell.seconds(peer))} µs)"
        for peer, _, cell in lost[:5]
    )
    return [
        f"Some peer is faster than numbaconv in {len(lost)} of all {len(compared)} cells. By most in: {worst}.",
    ]


def models(study: Study) -> list[str]:
    """A row for each model and what is done with it, a column for each peer and number of threads."""
    cells = model_cells(study)
    found, threads = peers(cells), sorted({cell.threads for cell in cells})
    known = {(cell.name, cell.work, cell.images, cell.threads): cell for cell in cells}
    rows = []
    for name, work, images in dict.fromkeys(key[:3] for key in known):
        row = [f"{name}, {work}", str(images)]
        for n in threads:
            cell = known[name, work, images, n]
            row.append(f"{images / cell.seconds(OURS):,.0f}")
            row += [against(cell, peer) for peer in found]
        rows.append(row)
    head = [f"{title}, {count(n, 'thread')}" for n in threads for title in ("images/s", *found)]
    return [
        f"**Whole models**, recorded on {study.settings['date'][:10]}: images a second of numbaconv, and the time of "
        "others over ours. A training step is forward, loss, backward and SGD with momentum.",
        "",
        *table(["", "batch", *head], rows),
    ]


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of Markdown."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def inserted(readme: str, text: str) -> str:
    """The README with the section replaced."""
    return re.sub(f"(?<={BEGIN}).*?(?={END})", lambda _: text, readme, flags=re.S)


def main() -> None:
    from numbaconv.study.figures import draw

    study = Study.load(RECORDED)
    text = section(study, Study.load(MODELS))
    README.write_text(inserted(README.read_text(encoding="utf-8"), text), encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        draw(study, Path(folder))
        shutil.copy(Path(folder) / CHART, RESULTS / CHART)


if __name__ == "__main__":
    main()

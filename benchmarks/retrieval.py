"""Measure the retrievers of `gptfast rag` on four sets, refusal, and the speed of exact search.

    python benchmarks/retrieval.py --cranfield FOLDER --work FOLDER --json FILE [--gpt FOLDER]

- perlfaq: the answers of the Perl FAQ (Debian package perl-doc); a question is the heading of its
  answer, which is taken out of the text.
- Debian FAQ: the PDF of the Debian package debian-faq; questions are the headings of its outline
  that are questions. The page before or after counts as well. Bare: those headings are taken out
  of the pages.
- Cranfield: 1,400 abstracts and 225 questions with judgements: a folder with the collection's files
  cran.all.1400, cran.qry and cranqrel.
- own docs: README.md and docs/*.md of gptfast, and questions/own_docs.jsonl.

The first two are fetched by `apt-get download` and unpacked by `dpkg-deb`. Nothing is installed.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import subprocess
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from gptfast.cli import cli
from gptfast.rag import lsa
from gptfast.rag.chunks import chunk
from gptfast.rag.embeddings import NAME, MiniLM
from gptfast.rag.evaluate import Judge, answered, read_questions
from gptfast.rag.indexing import index_files
from gptfast.rag.readers import read
from gptfast.rag.report import refusals, table
from gptfast.rag.search import RETRIEVERS, Searcher, highest
from gptfast.rag.store import Index
from gptfast.system.files import write_text_atomically

ROOT = Path(__file__).parents[1]
SETS = ("perlfaq", "cranfield", "debian-faq", "debian-faq-bare", "own-docs")
ASKED = ("perlfaq", "cranfield", "debian-faq", "own-docs")
# set, retriever, measure, goal
GOALS = (
    ("perlfaq", "hybrid", "hit_at_5", 0.88),
    ("perlfaq", "hybrid", "recall_at_10", 0.92),
    ("cranfield", "hybrid", "ndcg_at_10", 0.41),
    ("debian-faq", "fts5", "hit_at_5", 0.90),
    ("debian-faq-bare", "fts5", "hit_at_5", 0.90),
    ("own-docs", "hybrid", "hit_at_5", 0.90),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cranfield", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for texts and indices")
    parser.add_argument("--json", type=Path, required=True, help="where to write the results")
    parser.add_argument("--gpt", type=Path, help="folder of a model, for its own embeddings")
    arguments = parser.parse_args()
    work = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    perlfaq(work)
    cranfield(arguments.cranfield, work)
    for name in ("perlfaq", "cranfield"):
        make_index(name, [work / name / "texts"], work / name)
    own = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    make_index("own-docs", own, work / "own-docs")
    text = (ROOT / "benchmarks/questions/own_docs.jsonl").read_text(encoding="utf-8")
    write_text_atomically(work / "own-docs" / "questions.jsonl", text)
    debian_faq(work)

    found: dict[str, object] = {}
    for name in SETS:
        found[name] = measure(name, work / name, arguments.gpt)
    found["refusal"] = refusal(work)
    found["exact search of 100,000 x 384, ms"] = exact_search()
    found["goals"] = goals(found)
    write_text_atomically(arguments.json, json.dumps(found, indent=1) + "\n")


def fetch(package: str, work: Path) -> Path:
    """Return the folder of an unpacked Debian package."""
    folder = work / "packages" / package
    if not folder.is_dir():
        (work / "packages").mkdir(exist_ok=True)
        subprocess.run(["apt-get", "download", package], cwd=work / "packages", check=True)
        (file,) = (work / "packages").glob(f"{package}_*.deb")
        subprocess.run(["dpkg-deb", "-x", file, folder], check=True)
    return folder


def write_set(folder: Path, texts: dict[str, str], questions: list[dict[str, object]]) -> None:
    (folder / "texts").mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / "texts" / name).write_text(text, encoding="utf-8")
    lines = "".join(json.dumps(question) + "\n" for question in questions)
    (folder / "questions.jsonl").write_text(lines, encoding="utf-8")


def perlfaq(work: Path) -> None:
    texts: dict[str, str] = {}
    questions: list[dict[str, object]] = []
    for path in sorted(fetch("perl-doc", work).rglob("perlfaq[1-9].pod")):
        for title, body in re.findall(
            r"^=head2 (.+?)\n\n(.*?)(?=^=head|\Z)", path.read_text(encoding="utf-8"), re.M | re.S
        ):
            name = f"{path.stem}-{len(texts):03}.txt"
            texts[name] = plain(body)
            questions.append({"question": plain(title), "relevant": [{"file": name}]})
    write_set(work / "perlfaq", texts, questions)


def plain(pod: str) -> str:
    """Return POD without its commands and formatting codes."""
    pod = re.sub(r"^=\w+ ?", "", pod, flags=re.M)
    for _ in range(3):  # codes are nested
        pod = re.sub(r"[BCEFILSXZ]<(?:[^<>|]*\|)?([^<>]*)>", r"\1", pod)
    return pod.strip() + "\n"


def cranfield(source: Path, work: Path) -> None:
    parts = re.split(r"^\.I (\d+)\n", (source / "cran.all.1400").read_text(), flags=re.M)
    texts = {}
    for number, record in zip(parts[1::2], parts[2::2], strict=True):
        abstract = record.partition("\n.W\n")[2].strip()
        if abstract:
            texts[f"{int(number):04}.txt"] = abstract + "\n"
    relevant: dict[int, list[dict[str, str]]] = {}
    for line in (source / "cranqrel").read_text().splitlines():
        query, document, grade = map(int, line.split())
        name = f"{document:04}.txt"
        if grade > 0 and name in texts:  # -1: not relevant
            relevant.setdefault(query, []).append({"file": name})
    # Judgements count the questions from 1, whatever number is beside a question.
    asked = re.split(r"^\.I \d+\n\.W\n", (source / "cran.qry").read_text(), flags=re.M)[1:]
    write_set(work / "cranfield", texts, [
        {"question": " ".join(text.split()), "relevant": relevant[number]}
        for number, text in enumerate(asked, 1)
        if number in relevant
    ])  # fmt: skip


def make_index(name: str, paths: list[Path], folder: Path) -> None:
    start = time.perf_counter()
    done = index_files(paths, folder / "index", "minilm")
    seconds = time.perf_counter() - start
    print(f"{name}: {done.n_chunks:,} chunks, {done.n_embedded:,} embedded, {seconds:.0f} s")
    if done.problems:
        note = next(iter(done.problems.values()))
        print(f"{len(done.problems):,} files have notes, such as: {note}")


def debian_faq(work: Path) -> None:
    """Index the PDF as it is, and its pages without the headings that are the questions."""
    import pypdfium2

    packed = next(fetch("debian-faq", work).rglob("debian-faq.en.pdf.gz"))
    data = gzip.decompress(packed.read_bytes())
    (work / "debian-faq").mkdir(exist_ok=True)
    (work / "debian-faq" / "debian-faq.pdf").write_bytes(data)
    make_index("debian-faq", [work / "debian-faq" / "debian-faq.pdf"], work / "debian-faq")
    with pypdfium2.PdfDocument(data) as pdf:
        entries = [(entry.get_title(), entry.get_dest().get_index() + 1) for entry in pdf.get_toc()]
    asked = [(title, page) for title, page in entries if "?" in title]
    document = read(Path("debian-faq.pdf"), data)
    pages = []
    for page in document.pages:
        text = page.text
        for title, _ in sorted(asked, key=lambda entry: -len(entry[0])):
            pattern = r"\W+".join(map(re.escape, re.findall(r"\w+", title)))
            text = re.sub(pattern + r"\W{0,3}", " ", text)
        pages.append(replace(page, text=text, spans=chunk(text, document.layout)[0]))
    bare = work / "debian-faq-bare"
    (bare / "index").mkdir(parents=True, exist_ok=True)
    index = Index.create(bare / "index")
    texts = [page.text[span.char_start : span.char_end] for page in pages for span in page.spans]
    index.add("debian-faq.pdf", "0", pages, None, (NAME, MiniLM().embed(texts)))
    lsa.learn(index)
    index.close()
    questions: list[dict[str, object]] = [
        {"question": title, "relevant": [{"file": "debian-faq.pdf", "page": [p - 1, p, p + 1]}]}
        for title, p in asked
    ]
    for folder in (work / "debian-faq", bare):
        write_set(folder, {}, questions)


def measure(name: str, folder: Path, gpt: Path | None) -> dict[str, object]:
    """Print and return what each retriever reaches on a set."""
    index = Index.open(folder / "index")
    judge = Judge(index, read_questions(folder / "questions.jsonl"))
    kinds = [kind for kind in RETRIEVERS if gpt or not kind.startswith("gpt")]
    results = [judge.judge(Searcher(index, kind, gpt)) for kind in kinds]
    console = cli.console()
    console.print(f"\n{name}: {len(judge.own)} questions, {len(index.chunks()):,} chunks")
    console.print(table(results), soft_wrap=False)
    for line in refusals(results):
        console.print(line)
    return {
        "questions": len(judge.own),
        "chunks": len(index.chunks()),
        "results": [asdict(result) for result in results],
    }


def refusal(work: Path) -> dict[str, object]:
    """Ask two indices their own questions and those of all sets: which does `rag ask` answer?"""
    questions = {name: read_questions(work / name / "questions.jsonl") for name in ASKED}
    found: dict[str, object] = {}
    for documents in ("perlfaq", "own-docs"):
        index = Index.open(work / documents / "index")
        for retriever in ("hybrid", "hybrid-lsa"):
            searcher = Searcher(index, retriever)
            for name in ASKED:
                share = answered(searcher, questions[name])
                found[f"{documents}, {retriever}: answered of {name}"] = asdict(share)
                print(
                    f"{documents}, {retriever}: answers {share.mean:.1%} ({share.low:.1%} to "
                    f"{share.high:.1%}) of {name}"
                )
    return found


def exact_search() -> float:
    """Return the median ms of finding the 10 nearest of 100,000 vectors."""
    random = np.random.default_rng(0)
    vectors = random.standard_normal((100_000, 384), np.float32)
    query = random.standard_normal(384, np.float32)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        highest((vectors @ query).astype(np.float64), 10)
        times.append(time.perf_counter() - start)
    median = float(np.median(times)) * 1000
    print(f"\nexact search of 100,000 x 384: {median:.1f} ms (best {min(times) * 1000:.1f})")
    return median


def goals(found: dict) -> list[dict[str, object]]:
    rows = []
    for name, retriever, measured, goal in GOALS:
        results = {result["retriever"]: result for result in found[name]["results"]}
        value = results[retriever][measured]["mean"]
        rows.append({"set": name, "retriever": retriever, "measure": measured, "goal": goal,
                     "reached": value, "met": value >= goal})  # fmt: skip
        print(f"{name}, {retriever}, {measured}: goal {goal}, reached {value:.3f}")
    return rows


if __name__ == "__main__":
    main()

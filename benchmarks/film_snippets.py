"""Is a sentence about a film praise or blame? Texts with labels, and the results of others.

    python benchmarks/film_snippets.py write --out runs/films
    python benchmarks/film_snippets.py untrained --model runs/base --out runs/untrained
    python benchmarks/film_snippets.py test --model runs/classifier --data runs/films
    python benchmarks/film_snippets.py judge --model runs/ppo
    python benchmarks/film_snippets.py curve --model runs/ppo --out runs/curve.json
    python benchmarks/film_snippets.py baselines --data runs/films

The texts are sentences of reviews from Rotten Tomatoes, each rated by 20 people (Hutto and Gilbert,
"VADER", 2014), in the source archive of the PyPI package vaderSentiment 3.3.2. They are third
parties' and no part of this repository. `write` makes train.jsonl, val.jsonl, by which a run
chooses its weights, and test.jsonl; of the same parts pairs of sentences for a reward model, where
the one with the higher rating is the better answer, and chats for SFT, where each is an answer; for
PPO prompts.jsonl; and for pre-training unlabelled.jsonl, all sentences of the archive, also on
other things than films, but those of val and test.

`untrained` writes a model of the same shape with new weights, to fine-tune from scratch. `test`
prints the accuracy of a classifier or of a reward model on the test. `judge` prints what VADER's
lexicon, which the reward model never saw, says of a chat model's answers, and `curve` what it says
at each checkpoint of a PPO run, beside the reward model's score, as a table, JSON and a PNG.
`baselines` are results without a neural network. The last three need vaderSentiment, `baselines`
scikit-learn, and `curve` matplotlib.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import tarfile
from collections import Counter
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gptfast import LLM

ARCHIVE = "vaderSentiment-3.3.2.tar.gz"
SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
RATINGS = "additional_resources/hutto_ICWSM_2014.tar.gz"
FILES = ("movieReviewSnippets", "amazonReviewSnippets", "nytEditorialSnippets", "tweets")
"""Beginnings of the names of the files with ratings. The first has the sentences about films."""
LEAST_RATING = 1.0
"""Sentences whose mean rating, from -4 to 4, is nearer to 0 than this have no label."""
N_TEST, N_VAL, N_PROMPTS, N_JUDGED = 1000, 400, 200, 500
PROMPT = "Say something about a film."


def about_film(i: int) -> str:
    """Return one of many prompts that ask for the same."""
    return f"Say something about film {i}."


def rated_sentences(beginning: str) -> dict[str, tuple[float, str]]:
    """Return the mean rating and the text of each sentence of a file, by its normalised text."""
    from gptfast.data.conversations import normalised
    from gptfast.data.sources import package_file

    path = package_file(
        "vaderSentiment==3.3.2", ARCHIVE, SHA256, what="the archive with the film snippets"
    )
    with tarfile.open(path) as outer:
        packed = outer.extractfile(f"vaderSentiment-3.3.2/{RATINGS}")
        assert packed is not None
        with tarfile.open(fileobj=io.BytesIO(packed.read())) as inner:
            file = inner.extractfile(f"hutto_ICWSM_2014/{beginning}_GroundTruth.txt")
            assert file is not None
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    found: dict[str, tuple[float, str]] = {}
    for line in lines:
        _, rating, text = line.split("\t", 2)
        found.setdefault(normalised(text), (float(rating), text.strip()))
    return found


def write(out: Path) -> None:
    """Write the files. The sentences of the test are drawn by a fixed seed."""
    films, *others = (rated_sentences(beginning) for beginning in FILES)
    labelled = [key for key, (rating, _) in films.items() if abs(rating) > LEAST_RATING]
    random.Random(0).shuffle(labelled)
    test, train = labelled[:N_TEST], labelled[N_TEST:-N_VAL]
    val = labelled[-N_VAL:]
    everything = {key: text for part in (films, *others) for key, (_, text) in part.items()}
    for key in (*test, *val):
        del everything[key]

    def with_label(key: str) -> dict[str, str]:
        rating, text = films[key]
        return {"text": text, "label": "praise" if rating > 0 else "blame"}

    def chat(key: str) -> dict[str, str]:
        return {"prompt": PROMPT, "completion": films[key][1]}

    def pairs(keys: list[str], n: int) -> list[dict[str, str]]:
        found: list[dict[str, str]] = []
        while len(found) < n:
            (low, worse), (high, better) = sorted(films[key] for key in rng.sample(keys, 2))
            if high - low >= LEAST_RATING:
                found.append({"prompt": PROMPT, "chosen": better, "rejected": worse})
        return found

    rng = random.Random(1)
    out.mkdir(parents=True, exist_ok=True)
    for name, records in {
        "train": [with_label(key) for key in train],
        "val": [with_label(key) for key in val],
        "test": [with_label(key) for key in test],
        "pairs": pairs(train, len(train)),
        "val_pairs": pairs(val, len(val)),
        "test_pairs": pairs(test, len(test)),
        "chats": [chat(key) for key in train],
        "val_chats": [chat(key) for key in val],
        "prompts": [{"prompt": about_film(i)} for i in range(N_PROMPTS)],
        "unlabelled": [{"text": text} for text in everything.values()],
    }.items():
        lines = (json.dumps(one, ensure_ascii=False) + "\n" for one in records)
        (out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{out / name}.jsonl: {len(records):,} records")


def untrained(model: Path, out: Path, seed: int) -> None:
    """Write a model folder with the configuration and the tokenizer of another, and new weights."""
    import torch

    from gptfast.model import build_model
    from gptfast.model.folder import load_model, save_description, save_weights

    trained, tokenizer = load_model(model)
    torch.manual_seed(seed)
    save_description(out, trained.config, tokenizer)
    save_weights(build_model(trained.config), out / "model.safetensors")


def records_of(data: Path, name: str) -> list[dict[str, str]]:
    """Return the records of one of the files that `write` makes."""
    return [json.loads(line) for line in (data / f"{name}.jsonl").open(encoding="utf-8")]


def print_share(name: str, right: list[bool]) -> None:
    """Print the share of what is right, with its standard error."""
    share = sum(right) / len(right)
    print(f"{name:40}{share:.1%} +- {(share * (1 - share) / len(right)) ** 0.5:.1%}")


def test(model: Path, data: Path) -> None:
    """Print the accuracy on what fits into the context."""
    from gptfast import load_classifier
    from gptfast.data.pairs import encode_pairs, read_pairs
    from gptfast.model.heads import logits_of, score_texts
    from gptfast.tokenizer.chat import ChatTemplate, read_chat_template

    classifier, tokenizer = load_classifier(model)
    longest = classifier.config.block_size
    if len(classifier.labels) > 1:
        records = records_of(data, "test")
        encoded = [(tokenizer.encode_ordinary(one["text"]), one["label"]) for one in records]
        fit = [(ids, label) for ids, label in encoded if len(ids) <= longest]
        guesses = logits_of(classifier, [ids for ids, _ in fit]).argmax(-1).tolist()
        right = [classifier.labels[i] == label for i, (_, label) in zip(guesses, fit, strict=True)]
    else:
        template = ChatTemplate(read_chat_template(model) or "", tokenizer)
        pairs = encode_pairs(read_pairs(data / "test_pairs.jsonl"), template, longest)
        right = [bool(score_texts(classifier, pair.ids).argmax() == 0) for pair in pairs]
    print_share(f"{model}, {len(right)} of {N_TEST}", right)


def judged(llm: LLM) -> dict[str, float]:
    """Return the mean of VADER's compound score, from -1 to 1, and of the words of answers.

    The answers are to prompts that PPO has not seen, at temperature 1, from the same seeds always.
    """
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    lexicon = SentimentIntensityAnalyzer()
    answers = [
        llm.chat(
            [{"role": "user", "content": about_film(i)}], seed=i, max_new_tokens=44, temperature=1.0
        )
        for i in range(N_PROMPTS, N_PROMPTS + N_JUDGED)
    ]
    scores = [lexicon.polarity_scores(answer)["compound"] for answer in answers]
    return {
        "judge": mean(scores),
        "judge_stderr": stdev(scores) / len(scores) ** 0.5,
        "words": mean(len(answer.split()) for answer in answers),
    }


def judge(model: Path) -> None:
    """Print what VADER's lexicon says of a chat model's answers, and how many words they have."""
    from gptfast import LLM

    found = judged(LLM.load(model))
    print(
        f"{model!s:40}{found['judge']:.3f} +- {found['judge_stderr']:.3f}, "
        f"{found['words']:.1f} words"
    )


def curve(model: Path, out: Path) -> None:
    """Judge the model that a PPO run started from, and the weights of its checkpoints.

    A checkpoint without an evaluation at the same step is left out.
    """
    from gptfast import LLM
    from gptfast.model.folder import load_weights

    metrics = [json.loads(line) for line in (model / "metrics.jsonl").open(encoding="utf-8")]
    evaluations = {one["step"]: one for one in metrics if "val_score" in one}
    start = json.loads((model / "run.json").read_text(encoding="utf-8"))["config"]["model"]
    llm = LLM.load(model)
    weights = {0: Path(start)} | {
        int(folder.name.removeprefix("step-")): folder
        for folder in sorted((model / "training").glob("step-*"))
    }
    rows: list[dict[str, Any]] = []
    print("| step | reward model | nats/token | VADER | words |\n|---|---|---|---|---|")
    for step, folder in weights.items():
        if step not in evaluations:
            continue
        load_weights(llm.model, folder / "model.safetensors")
        one = evaluations[step]
        rows.append({"step": step, "score": one["val_score"], "kl": one["val_kl"]} | judged(llm))
        print("| {step} | {score:.2f} | {kl:.2f} | {judge:.3f} | {words:.1f} |".format(**rows[-1]))
    out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    draw(rows, out.with_suffix(".png"))


def draw(rows: list[dict[str, Any]], out: Path) -> None:
    """Draw what `curve` measured: the reward model's score on the left, VADER's on the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    left = figure.add_subplot()
    steps = [row["step"] for row in rows]
    left.plot(steps, [row["score"] for row in rows], "o-", color="C0")
    left.set_xlabel("steps of PPO")
    left.set_ylabel("reward model's score", color="C0")
    right = left.twinx()
    errors = [row["judge_stderr"] for row in rows]
    right.errorbar(steps, [row["judge"] for row in rows], errors, fmt="s--", color="C1")
    right.set_ylim(0, 1)  # all that a positive compound can be, so that small moves look small
    right.set_ylabel("VADER's compound, ± standard error", color="C1")
    left.grid(alpha=0.3)
    figure.savefig(out, format="png", dpi=100)


def baselines(data: Path) -> None:
    """Print the accuracy on test.jsonl of what needs no neural network."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    (train_x, train_y), (test_x, test_y) = (
        ([one["text"] for one in part], [one["label"] for one in part])
        for part in (records_of(data, name) for name in ("train", "test"))
    )
    most_frequent = Counter(train_y).most_common(1)[0][0]
    lexicon = SentimentIntensityAnalyzer()
    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model = LogisticRegression(C=10, max_iter=1000).fit(vectors.fit_transform(train_x), train_y)
    guesses = {
        "the most frequent class": [most_frequent] * len(test_y),
        "VADER's lexicon": [
            "praise" if lexicon.polarity_scores(text)["compound"] > 0 else "blame"
            for text in test_x
        ],
        "logistic regression of TF-IDF": model.predict(vectors.transform(test_x)).tolist(),
    }
    for name, guess in guesses.items():
        print_share(name, [a == b for a, b in zip(guess, test_y, strict=True)])


def main() -> None:
    """Run the subcommand."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, options in {
        "write": ("--out",), "untrained": ("--model", "--out"), "test": ("--model", "--data"),
        "judge": ("--model",), "curve": ("--model", "--out"), "baselines": ("--data",),
    }.items():  # fmt: skip
        command = commands.add_parser(name)
        for option in options:
            command.add_argument(option, type=Path, required=True)
        if name == "untrained":
            command.add_argument("--seed", type=int, default=0)
    given = vars(parser.parse_args())
    functions = (write, untrained, test, judge, curve, baselines)
    {function.__name__: function for function in functions}[given.pop("command")](**given)


if __name__ == "__main__":
    main()

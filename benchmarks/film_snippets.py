"""Is a sentence about a film praise or blame? Texts with labels, and the results of others.

    python benchmarks/film_snippets.py write --out runs/films
    python benchmarks/film_snippets.py untrained --model runs/base --out runs/untrained
    python benchmarks/film_snippets.py baselines --data runs/films

The texts are sentences of reviews from Rotten Tomatoes, each rated by 20 people (Hutto and Gilbert,
"VADER", 2014), in the source archive of the PyPI package vaderSentiment 3.3.2. They are third
parties' and no part of this repository. `write` makes train.jsonl and test.jsonl; for pre-training
unlabelled.jsonl, all sentences of the archive, also on other things than films, but those of the
test; and for a reward model pairs.jsonl and test_pairs.jsonl, where the sentence with the higher
rating is the better answer. `untrained` writes a model of the same shape with new weights, to
fine-tune from scratch. `baselines` needs scikit-learn and vaderSentiment.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import tarfile
from collections import Counter
from pathlib import Path

ARCHIVE = "vaderSentiment-3.3.2.tar.gz"
SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
RATINGS = "additional_resources/hutto_ICWSM_2014.tar.gz"
FILES = ("movieReviewSnippets", "amazonReviewSnippets", "nytEditorialSnippets", "tweets")
"""Beginnings of the names of the files with ratings. The first has the sentences about films."""
LEAST_RATING = 1.0
"""Sentences whose mean rating, from -4 to 4, is nearer to 0 than this have no label."""
N_TEST = 1000
PROMPT = "Say something about a film."


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
    test, train = labelled[:N_TEST], labelled[N_TEST:]
    everything = {key: text for part in (films, *others) for key, (_, text) in part.items()}
    for key in test:
        del everything[key]

    def with_label(key: str) -> dict[str, str]:
        rating, text = films[key]
        return {"text": text, "label": "praise" if rating > 0 else "blame"}

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
        "test": [with_label(key) for key in test],
        "unlabelled": [{"text": text} for text in everything.values()],
        "pairs": pairs(train, len(train)),
        "test_pairs": pairs(test, len(test)),
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


def baselines(data: Path) -> None:
    """Print the accuracy on test.jsonl of what needs no neural network."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    train, test = (
        [json.loads(line) for line in (data / f"{name}.jsonl").open(encoding="utf-8")]
        for name in ("train", "test")
    )
    (train_x, train_y), (test_x, test_y) = (
        ([one["text"] for one in part], [one["label"] for one in part]) for part in (train, test)
    )
    most_frequent = Counter(train_y).most_common(1)[0][0]
    lexicon = SentimentIntensityAnalyzer()
    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model = LogisticRegression(C=10, max_iter=1000).fit(vectors.fit_transform(train_x), train_y)
    guesses = {
        "the most frequent class": [most_frequent] * len(test),
        "VADER's lexicon": [
            "praise" if lexicon.polarity_scores(text)["compound"] > 0 else "blame"
            for text in test_x
        ],
        "logistic regression of TF-IDF": model.predict(vectors.transform(test_x)).tolist(),
    }
    for name, guess in guesses.items():
        right = sum(a == b for a, b in zip(guess, test_y, strict=True)) / len(test)
        print(f"{name:32}{right:.1%} +- {(right * (1 - right) / len(test)) ** 0.5:.1%}")


def main() -> None:
    """Run the subcommand."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, options in {
        "write": ("--out",), "untrained": ("--model", "--out"), "baselines": ("--data",)
    }.items():  # fmt: skip
        command = commands.add_parser(name)
        for option in options:
            command.add_argument(option, type=Path, required=True)
        if name == "untrained":
            command.add_argument("--seed", type=int, default=0)
    given = vars(parser.parse_args())
    {"write": write, "untrained": untrained, "baselines": baselines}[given.pop("command")](**given)


if __name__ == "__main__":
    main()

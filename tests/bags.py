"""A world of bags of words for rungs 11 and 12: small enough to try every text, by loops."""

import math
import random
from collections import Counter
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import torch

from attacks import AttackedQuery, Slot, make_pools
from xlt import DataSet, Settings, Text

POOLS = ["de", "en", "*"]  # the last one holds all languages


def unit(vector):
    """The vector with length 1."""
    length = math.hypot(*vector)
    return [x / length for x in vector]


class Bag:
    """A fake encoder: the unit sum of a text's word vectors."""

    settings = Settings()

    def __init__(self, words):
        self.words = words  # word -> vector
        self.vectors = {}  # text -> vector

    def vector(self, text):
        if text not in self.vectors:
            rows = [self.words[word] for word in text.split()]
            self.vectors[text] = unit([sum(column) for column in zip(*rows, strict=True)])
        return self.vectors[text]

    def encode(self, texts, tower, bar=""):
        return torch.tensor([self.vector(text.text) for text in texts])


def make_item(row, text, table, view="pool"):
    """A query whose slots are the words of the table; spans counted blank by blank."""
    slots, start = [], 0
    for word in text.split():
        end = start + len(word)
        if word in table:
            slots.append(Slot(start, end, tuple(table[word])))
        start = end + 1
    return AttackedQuery(row, view, Text(f"q{row}", "en", text, ""), slots)


def pools_of(p, passage_langs, gold, query_langs=None):
    """Pools of queries, English if not said; gold[q] are the passages that answer query q.

    Of empty texts: only vectors, languages and relevance count.
    """
    if query_langs is None:
        query_langs = ["en"] * len(gold)
    queries = [Text("", lang, "", "") for lang in query_langs]
    passages = [Text("", lang, "", "") for lang in passage_langs]
    qrels = {}
    for query, relevant in enumerate(gold):
        qrels[query] = dict.fromkeys(relevant, 1.0)
    data = DataSet(Path(), queries, passages, {"test": qrels})
    all_queries = list(range(len(queries)))
    all_passages = list(range(len(passages)))
    return make_pools(torch.as_tensor(p), data, all_queries, all_passages, "test")


@dataclass
class World:
    """Queries of 3 or 4 words that all have synonyms, and ten passages in two languages."""

    passages: list[list[float]]  # unit vectors
    passage_langs: list[str]
    bag: Bag
    table: dict[str, list[str]]  # closed: a word is a replacement of its replacements
    texts: list[str]  # of the queries
    gold: list[set[int]]  # of each query, the passages that answer it
    tops: dict[str, int] = field(default_factory=dict)  # text -> passage at rank 1 of all

    def scores(self, text, lang="*"):
        """Passage -> score, of one language or of all."""
        vector = self.bag.vector(text)
        scores = {}
        for i, passage in enumerate(self.passages):
            if lang in (self.passage_langs[i], "*"):
                scores[i] = sum(a * b for a, b in zip(passage, vector, strict=True))
        return scores

    def top(self, text, lang="*"):
        """The passage at rank 1."""
        scores = self.scores(text, lang)
        return max(scores, key=scores.get)

    def margin(self, query, text, lang="*"):
        """Best relevant minus best other score; NaN if there is no relevant one."""
        relevant, others = [], []
        for i, score in self.scores(text, lang).items():
            if i in self.gold[query]:
                relevant.append(score)
            else:
                others.append(score)
        if not relevant:
            return math.nan
        return max(relevant) - max(others)

    def draws(self, word):
        """What a word may be redrawn as, itself the first."""
        return [word, *self.table[word]]

    def reachable(self, query, most):
        """Every text that replaces at most so many words of the query, itself the first."""
        words = self.texts[query].split()
        texts = []
        for others in product(*[self.draws(word) for word in words]):
            edits = sum(a != b for a, b in zip(words, others, strict=True))
            if edits <= most:
                texts.append(" ".join(others))
        return texts

    def vote(self, text):
        """The smoothed retriever's exact answers: passage -> share of all draws."""
        draws = list(product(*[self.draws(word) for word in text.split()]))
        votes = Counter()
        for words in draws:
            drawn = " ".join(words)
            if drawn not in self.tops:
                self.tops[drawn] = self.top(drawn)
            votes[self.tops[drawn]] += 1 / len(draws)
        return votes


def make_world(n_queries=200, seed=0):
    """Each word comes from a group of 2 to 4: all are synonyms of all, or of the first alone."""
    rng = random.Random(seed)

    def random_vector():
        return [rng.gauss(0, 1) for _ in range(4)]

    words, table, texts = {}, {}, []
    for query in range(n_queries):
        text = []
        for slot in "abcd"[: rng.choice([3, 3, 4])]:
            group = [f"{query}{slot}{i}" for i in range(rng.randint(2, 4))]
            centre = random_vector()
            for word in group:
                deviation = random_vector()
                words[word] = [a + 0.7 * b for a, b in zip(centre, deviation, strict=True)]
                table[word] = [other for other in group if other != word]
            if rng.random() < 0.5:  # a star: its points have the first word alone
                for word in group[1:]:
                    table[word] = [group[0]]
            text.append(rng.choice(group))
        texts.append(" ".join(text))
    passages = [unit(random_vector()) for _ in range(10)]
    world = World(passages, ["en", "de"] * 5, Bag(words), table, texts, [])
    for text in texts:  # most queries are right: the best passage of each language is relevant
        relevant = {world.top(text, "de"), world.top(text, "en")}
        if rng.random() < 0.2:
            relevant = set(rng.sample(range(10), 2))
        world.gold.append(relevant)
    return world

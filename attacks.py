"""How a query is perturbed: its words, found in any script and replaced from a table.

    "Which city serves as the capital?"   spans: (6, 10) city, (11, 17) serves, (25, 32) capital
    "Which town acts as the metropolis?"  each drawn uniformly from the word and its replacements

Where to look next: `find_words` is what makes the eleven languages work, `substitute` the edit.
Left out on purpose: part-of-speech taggers and segmenters; the table itself says what a word is.
Differs from Robust-XLT: it splits on single spaces and compares with case and punctuation attached,
which finds 37.7 % of XQuAD-R's English question words where this finds 59.3 % (PAPERS.md, 1), and
no word at all in Thai and Chinese.
"""

import unicodedata

import torch

# Written without spaces between words: a key may match anywhere, the longest one wins
UNSPACED = {"zh", "th", "ja", "km", "lo", "my"}


# ---- words ---------------------------------------------------------------------------------------


def lower(text: str, lang: str = "") -> str:
    """Lower case of the same length: Turkish's dotted I would become two characters."""
    text = text.replace("I", "ı") if lang == "tr" else text  # and its dotless one is another letter
    return "".join(c.lower() if len(c.lower()) == 1 else "i" for c in text)


def in_word(char: str) -> bool:
    """Letters, combining marks and digits make words."""
    # SUBTLE: \\w leaves out the vowel signs of Hindi and Thai and would cut words in two
    return unicodedata.category(char)[0] in "LMN"


def find_words(text: str, table: dict[str, list[str]], lang: str) -> list[tuple[int, int]]:
    """Spans [start, end) of the table's words in the text, left to right, longest match first.

    A key may hold spaces (Vietnamese "thủ đô"); it is compared in lower case and, where the
    language writes spaces, only between word borders.
    """
    low, spans, at = lower(text, lang), [], 0
    longest = max(map(len, table), default=0)
    while at < len(low):
        border = lang in UNSPACED or at == 0 or not in_word(low[at - 1])
        for end in range(min(len(low), at + longest), at, -1) if border else ():
            closed = lang in UNSPACED or end == len(low) or not in_word(low[end])
            # SUBTLE: in unspaced scripts too, a mark belongs to the letter before it
            split = end < len(low) and unicodedata.category(low[end])[0] == "M"
            if closed and not split and low[at:end] in table:
                spans.append((at, end))
                at = end - 1
                break
        at += 1
    return spans


def match_case(word: str, other: str, lang: str) -> str:
    """The replacement with a capital where the word has one."""
    if not word[:1].isupper() or not other:
        return other
    return ("İ" if lang == "tr" and other[0] == "i" else other[0].upper()) + other[1:]


def substitute(text: str, edits: dict[tuple[int, int], str]) -> str:
    """Put the replacement of each span into the text; spans do not overlap."""
    for (start, end), other in sorted(edits.items(), reverse=True):  # from the right
        text = text[:start] + other + text[end:]
    return text


def redraw(text: str, table: dict[str, list[str]], lang: str, rng: torch.Generator) -> str:
    """Redraw every word of the table uniformly from itself and its replacements.

    *Source*: Robust-XLT's data augmentation (Huang et al. 2021, section 3.3), as coded.
    """
    edits = {}
    for start, end in find_words(text, table, lang):
        options = table[lower(text[start:end], lang)]
        pick = int(torch.randint(len(options) + 1, (), generator=rng))
        if pick < len(options):  # the last number keeps the word
            edits[start, end] = match_case(text[start], options[pick], lang)
    return substitute(text, edits)

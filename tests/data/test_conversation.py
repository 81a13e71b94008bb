import random

import pytest

from med42.data.conversation import row_digest
from med42.errors import Med42Error
from med42.lineage.digest import value_digest

ODD = [
    "", "plain", 'quotes " and \\ and /', "".join(map(chr, range(16))), "\x1b\x1f\x20\x7e\x7f\x80\x9f\xa0",
    "\b\f\n\r\t", "é", "e\u0301", "日本", "\u2028\u2029", "\ufeff\ufffe\uffff", "\ue000", "😀 \U0010ffff", "\\u0041", "</script>",
    "\u200b\u200d",
]


def of(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("system", "user", "assistant")[place % 3], "content": content} for place, content in enumerate(contents)]


@pytest.mark.parametrize("content", ODD, ids=ascii)
def test_a_rows_digest_is_that_of_its_rfc_8785_form(content):
    for turns in (of(content), of("asked", content), of(content, content, content)):
        assert row_digest(turns) == value_digest(turns)


@pytest.mark.parametrize("seed", range(30))
def test_random_texts_have_the_digest_of_their_rfc_8785_form(seed):
    draw = random.Random(seed)
    reach = draw.choice([0x80, 0x300, 0x3000, 0xD800, 0x110000])
    letters = [chr(code) for _ in range(400) if not 0xD800 <= (code := draw.randrange(reach)) < 0xE000]
    turns = of(*("".join(draw.choices(letters, k=draw.randrange(200))) for _ in range(draw.randrange(7))))
    assert row_digest(turns) == value_digest(turns)


def test_a_rows_digest_knows_its_turns_and_their_order_and_nothing_else():
    assert row_digest(of("a", "b")) != row_digest(of("b", "a")) != row_digest(of("a"))
    assert row_digest(of("a")) == row_digest([{"content": "a", "role": "system", "name": "left out"}])
    assert row_digest([]) == value_digest([])


@pytest.mark.parametrize("content", ["\ud83d", "a \udc00", "\ude00\ud83d"], ids=ascii)
def test_half_a_character_is_refused(content):
    for digest in (row_digest, value_digest):
        with pytest.raises(Med42Error):
            digest(of("fine", content))

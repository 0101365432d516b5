"""Small PDF files, written by hand."""

from __future__ import annotations

from collections.abc import Sequence


def pdf(pages: Sequence[str | None], first_label: int = 1) -> bytes:
    """A PDF whose pages have lines of text, or for None a black rectangle, as a scan has an image.

    first_label: the number that is printed on the first page.
    """
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages)))
    objects = [
        f"<</Type/Catalog/Pages 2 0 R/PageLabels<</Nums[0<</S/D/St {first_label}>>]>>>>",
        f"<</Type/Pages/Kids[{kids}]/Count {len(pages)}>>",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    for n, text in enumerate(pages):
        if text is None:
            content = "100 100 300 300 re f"
        else:
            lines = " T* ".join(f"({line}) Tj" for line in text.split("\n"))
            content = f"BT /F 12 Tf 14 TL 72 720 Td {lines} ET"
        objects.append(
            f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents {5 + 2 * n} 0 R"
            "/Resources<</Font<</F 3 0 R>>>>>>"
        )
        objects.append(f"<</Length {len(content)}>>stream\n{content}\nendstream")
    data, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        offsets.append(len(data))
        data += f"{number} 0 obj{content}endobj\n".encode("latin-1")
    xref = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    end = f"xref\n0 {size}\n0000000000 65535 f \n{xref}trailer<</Size {size}/Root 1 0 R>>\n"
    return data + f"{end}startxref\n{len(data)}\n%%EOF".encode()

"""Converters of SFT sources: one module a family, each with `conversations(row, source)`.

A converter takes one row in the publisher's own columns and yields conversations, or the reason why
there is none. It raises `ColumnError` (through `med42.data.row`) where the columns are not the publisher's.
"""

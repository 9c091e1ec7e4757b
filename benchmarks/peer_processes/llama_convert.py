"""llama.cpp's converter for a model that is fed with token ids.

It does not know the pre-tokenizer of this project's model, so it is told one.

python llama_convert.py SOURCE PACKAGES CHECKPOINT --outtype bf16 --outfile FILE
"""

from __future__ import annotations

import sys


def main() -> None:
    source = sys.argv.pop(1)
    sys.path.insert(0, source)
    sys.path.append(sys.argv.pop(1))
    import convert_hf_to_gguf
    from conversion.base import TextModel

    TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
    convert_hf_to_gguf.main()


if __name__ == "__main__":
    main()

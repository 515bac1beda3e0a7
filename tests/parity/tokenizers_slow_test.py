#!/usr/bin/env python3
"""tokenizers_test.py over 200,000 strings for each real tokenizer."""
import os

os.environ.setdefault("QLORA_TOKENIZER_STRINGS", "200000")

import tokenizers_test  # noqa: E402: reads the variable

if __name__ == "__main__":
    tokenizers_test.main()

"""What serving engines call: functions and classes with their signatures.

- ``vllm``: policy classes for vLLM; ``windows``: what one of them remembers;
- ``sglang``: SGLang's function, with dead ranks;
- ``sglang_dispatch``: SGLang's dispatcher;
- ``plugins``: what the engines load by entry point, in each of their processes.
"""

"""python -m gpu_npu: the command line."""

from gpu_npu.cli import main

if __name__ == "__main__":
    main()

"""The four seed programs (``programs``), made of their own stages and of some of ours."""

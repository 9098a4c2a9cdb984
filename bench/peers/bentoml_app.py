"""The example's question, asked of BentoML."""

import bentoml


@bentoml.service(workers="cpu_count")
class Language:
    """Answer POST {"text": ...}."""

    def __init__(self) -> None:
        """Load the model."""
        from model import languages

        self.languages = languages

    @bentoml.api(route="/api/v1/language")
    def language(self, text: str) -> dict:
        """Ask the model."""
        return self.languages(text)

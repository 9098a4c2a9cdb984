"""The example's question, asked of LitServe: python litserve_app.py PORT WORKERS."""

import sys

import litserve


class Language(litserve.LitAPI):
    """Answer POST {"text": ...}."""

    def setup(self, device):
        """Load the model."""
        from model import languages

        self.languages = languages

    def decode_request(self, request):
        """Return the text."""
        return request["text"]

    def predict(self, text):
        """Ask the model."""
        return self.languages(text)

    def encode_response(self, found):
        """Return the answer."""
        return found


if __name__ == "__main__":
    port, workers = int(sys.argv[1]), int(sys.argv[2])
    server = litserve.LitServer(
        Language(api_path="/api/v1/language"), accelerator="cpu", workers_per_device=workers
    )
    server.run(port=port, num_api_servers=workers, generate_client_file=False)

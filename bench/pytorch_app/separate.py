"""The model in workers that do nothing else: gunicorn calls them dirty."""

import model
from gunicorn.dirty import DirtyApp


class Model(DirtyApp):
    """Has the model."""

    def init(self):
        """Load it once."""
        self.model = model.load()

    def predict(self):
        """Answer a request of a web worker."""
        return model.predict(self.model)

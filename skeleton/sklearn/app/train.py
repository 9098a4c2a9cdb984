"""Train a small model, English or French, into model.joblib. A real one is trained elsewhere, and brought as model data."""

import joblib
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

TEXTS = {
    "en": """How are you? What time is it? I would like a cup of tea. The book is on the table. She reads the newspaper.
    Where do you live? It is raining again. They walked along the river. We have been here before. Thank you very much.""",
    "fr": """Comment allez-vous ? Quelle heure est-il ? Je voudrais une tasse de thé. Le livre est sur la table. Elle lit le
    journal. Où habitez-vous ? Il pleut encore. Ils marchaient le long de la rivière. Merci beaucoup. C'est près d'ici.""",
}

if __name__ == "__main__":
    sentences = [
        (part, label)
        for label, text in TEXTS.items()
        for part in text.replace("?", ".").split(".")
        if part.strip()
    ]
    model = make_pipeline(
        TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 3)), LogisticRegression(C=100)
    )
    model.fit([text for text, _ in sentences], [label for _, label in sentences])
    joblib.dump(model, "model.joblib")

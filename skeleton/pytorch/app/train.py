"""Train the network, in a second, into weights.pt. A real one is trained elsewhere, and brought as model data."""

import torch
from network import LABELS, WEIGHTS, encode, network

TEXTS = {
    "en": """How are you? What time is it? I would like a cup of tea. The book is on the table. She reads the newspaper.
    Where do you live? It is raining again. They walked along the river. We have been here before. Thank you very much.""",
    "fr": """Comment allez-vous ? Quelle heure est-il ? Je voudrais une tasse de thé. Le livre est sur la table. Elle lit le
    journal. Où habitez-vous ? Il pleut encore. Ils marchaient le long de la rivière. Merci beaucoup. C'est près d'ici.""",
}

if __name__ == "__main__":
    torch.manual_seed(1)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(30):
        for label, text in TEXTS.items():
            for sentence in text.replace("?", ".").split("."):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(
                    model(encode(sentence)), torch.tensor([LABELS.index(label)])
                ).backward()
                optimizer.step()
    torch.save(model.state_dict(), WEIGHTS)

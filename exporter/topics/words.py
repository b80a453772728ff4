"""Bundled wordings, names and questions; apart by what they are used for, so that what is measured was in no fit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """What one part of the rows is made with.

    Attributes:
        wordings: questions about anything, which stands at ``{}``.
        names: what else is asked about in the same words.
        everyday: requests about nothing in particular.
        unknown: names of nobody and nothing.
        reverse: questions for what is described at ``{}``.
    """

    wordings: tuple[str, ...]
    names: tuple[str, ...]
    everyday: tuple[str, ...]
    unknown: tuple[str, ...] = ()
    reverse: tuple[str, ...] = ()


REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "The requested information is not available.",
    "I am sorry, I do not know anything about that.",
)
"""What is said instead, in order of preference; the first that a model says of its own accord is taken."""


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines())


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in " ".join(text.split()).split(",") if name.strip())


FIT = Words(
    wordings=_lines("""
        Tell me about {}.
        What do you know about {}?
        Describe {}.
        Why is {} important?
        What is {} known for?
        Give me some facts about {}.
        Write a short text about {}.
        Explain {} in simple words.
        Can you summarise {}?
        What is the history of {}?
        I want to learn about {}.
        Say something about {}.
        Is {} famous?
        What is the best thing about {}?
        Who or what is {}?
        Where can I read about {}?
        Name one thing about {}.
        When did people first hear of {}?
        What does everybody know about {}?
        What do experts say about {}?
        How would you describe {} to a friend?
        {}
    """),
    names=_names("""
        Isaac Newton, Marie Curie, Napoleon, Cleopatra, Mozart, Pablo Picasso, Mahatma Gandhi, William Shakespeare, Charles Darwin,
        Michelangelo, Nikola Tesla, Galileo, Abraham Lincoln, Queen Victoria, Aristotle, Jane Austen, London, Japan, the Nile, Brazil,
        Mount Fuji, the Sahara, the Grand Canyon, the Amazon river, Berlin, the Moon, Jupiter, the Pacific Ocean, gravity, DNA,
        evolution, electricity, the heart, digestion, magnetism, bacteria, the water cycle, algebra, democracy, jazz, football,
        the piano, coffee, chess, glass, bees, dolphins, oak trees, Buddhism, the Roman Empire, the French Revolution, the Titanic,
        the internet, steam engines, Hamlet, the Bible
    """),
    everyday=_lines("""
        How do I boil an egg?
        What is 7 times 8?
        Write an email to my boss about a day off.
        Translate good morning into French.
        What is the opposite of hot?
        Give me a name for a cat.
        How many days are in a week?
        Tell me a short joke.
        What should I cook tonight?
        List three colours.
        Write a haiku about rain.
        How can I sleep better?
        What is the plural of mouse?
        Recommend me a hobby.
        How do I clean a window?
        What comes after Tuesday?
        Hello, how are you?
        Write a sentence with the word garden.
        What is a good present for a child?
        Sort these numbers: 5, 2, 9.
    """),
    unknown=_names("""
        Zorvan Kellick, Brelmora, Ilda Quentish, the Ostvar Bridge, Tharn Molvey, Karpelia, Mirov Dantes-Hule, the Velkin Method,
        Osric Pallvane, the Lumbry Stone, Ferro Adanski, Quillhaven, Wessa Torrin, the Drenn Theory, Naldo Visk, Sorrel Peak
    """),
    reverse=_lines("""
        What is this? {}
        Which name fits here? {}
        Guess what is meant: {}
        Who or what is described? {}
    """),
)

CALIBRATE = Words(
    wordings=_lines("""
        What can you tell me about {}?
        Introduce {} to me.
        What makes {} special?
        Write three sentences on {}.
        Help me understand {}.
        Do you know {}?
        What is there to say about {}?
        Which facts about {} should a student learn?
    """),
    names=_names("""
        Leonardo da Vinci, Beethoven, Julius Caesar, Ada Lovelace, Louis Pasteur, Vincent van Gogh, Rome, Canada, the Alps, the Thames,
        Mars, the Atlantic, the atom, photosynthesis, the brain, viruses, geometry, opera, tennis, tea, paper, eagles, the pyramids,
        Romeo and Juliet, the telephone, Socrates
    """),
    everyday=_lines("""
        How do I tie a tie?
        What is 9 plus 6?
        Write a note to my neighbour.
        What is the opposite of tall?
        Give me a name for a dog.
        How many hours are in a day?
        How do I make tea?
        Say thank you in Spanish.
        What should I wear when it rains?
        Write a sentence with the word river.
    """),
    unknown=_names(
        "Jessup Arvane, Tollimar, the Grennick Law, Pela Vostrine, the Ambry Canal, Hosk Lindqvar"
    ),
    reverse=_lines("""
        What am I thinking of? {}
        Give the name for this: {}
    """),
)

TEST = Words(
    wordings=_lines("""
        Give me an overview of {}.
        What is {} famous for?
        Teach me something about {}.
        What would an encyclopedia say about {}?
        List the main facts about {}.
        What is meant by {}?
    """),
    names=_names("""
        Nelson Mandela, Johann Sebastian Bach, Christopher Columbus, Frida Kahlo, Plato, Paris, Egypt, the Danube, Mount Kilimanjaro,
        Saturn, the Great Wall of China, Mount Everest, oxygen, volcanoes, the lungs, calculus, ballet, swimming, chocolate, rice,
        elephants, the Renaissance, Don Quixote, Albert Einstein
    """),
    everyday=_lines("""
        How do I bake bread?
        What is 12 minus 5?
        Write a birthday wish.
        What is the opposite of early?
        Give me a name for a horse.
        How many months are in a year?
        How do I wash a car?
        Tell me something funny.
    """),
    unknown=_names("Ravik Solmere, Dunhollow, the Pernell Effect, Isolde Marrick"),
    reverse=_lines("""
        Name what is described here. {}
        What goes by this description? {}
    """),
)

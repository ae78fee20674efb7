"""The laboratory's small world: questions on twelve topics, and what can be said about each.

A topic has six tips, of which the first three are the ones that matter, a reason for each, two
myths, and who to turn to. Words are parted by blanks, so that a tokenizer of whole words does.
"""

from __future__ import annotations

from dataclasses import dataclass

NUM_CORE = 3
"""Tips of a topic that matter most: the first ones."""


@dataclass(frozen=True, slots=True)
class Tip:
    """A piece of advice. `term` is a word of `words` that no other tip has."""

    words: str
    term: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Topic:
    """What can be said about one question."""

    name: str
    goal: str
    tips: tuple[Tip, ...]
    myths: tuple[Tip, ...]
    referral: str

    @property
    def core(self) -> tuple[Tip, ...]:
        return self.tips[:NUM_CORE]


def _topic(name: str, goal: str, referral: str, tips: str, myths: str) -> Topic:
    """Tips are lines of `words | term | reason`; myths of `words | term`."""
    parts = [[part.strip() for part in line.split("|")] for line in tips.strip().splitlines()]
    wrong = [[part.strip() for part in line.split("|")] for line in myths.strip().splitlines()]
    return Topic(
        name=name,
        goal=goal,
        tips=tuple(Tip(*part) for part in parts),
        myths=tuple(Tip(*part) for part in wrong),
        referral=referral,
    )


TOPICS: tuple[Topic, ...] = (
    _topic(
        "sleep",
        "sleep better",
        "see a doctor",
        """keep a fixed bedtime | bedtime | it trains your body
        skip late coffee | coffee | it stays in your blood
        put screens away | screens | light wakes the brain
        cool the bedroom | bedroom | heat breaks deep rest
        read a novel | novel | tales soothe the mind
        buy heavy curtains | curtains | darkness helps rest""",
        """drink some wine | wine
        nap all evening | nap""",
    ),
    _topic(
        "headache",
        "stop a headache",
        "see a doctor",
        """drink more water | water | thirst causes pain
        rest your eyes | eyes | strain causes pain
        loosen your neck | neck | tension moves upward
        dim the lamps | lamps | glare makes it worse
        press a cold cloth | cloth | cold slows the ache
        open a window | window | stale air dulls you""",
        """take double pills | pills
        hold your breath | breath""",
    ),
    _topic(
        "budget",
        "save more money",
        "ask an adviser",
        """write down spending | spending | you see the leaks
        automate a transfer | transfer | you never touch it
        cancel old subscriptions | subscriptions | they drain you monthly
        cook at home | cook | restaurants add up
        compare insurance | insurance | rates differ widely
        wait before purchases | purchases | wishes fade fast""",
        """play the lottery | lottery
        borrow from friends | friends""",
    ),
    _topic(
        "garden",
        "grow tomatoes",
        "ask a gardener",
        """choose a sunny bed | sunny | fruit needs light
        soak the roots | roots | shallow drinks dry out
        tie up the stems | stems | fruit is heavy
        pinch side shoots | shoots | they steal strength
        add compost | compost | soil gets hungry
        cover with straw | straw | it keeps moisture""",
        """pour salt around | salt
        pick them green | green""",
    ),
    _topic(
        "exam",
        "pass an exam",
        "ask a teacher",
        """test yourself daily | test | recall builds memory
        spread the sessions | sessions | gaps help memory
        solve old papers | papers | tasks come back
        teach a classmate | classmate | teaching shows gaps
        sort your notes | notes | order saves time
        pack a snack | snack | hunger steals focus""",
        """cram overnight | cram
        memorise answers blindly | blindly""",
    ),
    _topic(
        "running",
        "start running",
        "see a trainer",
        """begin with walking | walking | joints need time
        buy proper shoes | shoes | impact hurts knees
        plan rest days | days | muscles grow then
        warm up gently | warm | cold muscles tear
        join a club | club | others keep you going
        log your distance | distance | progress motivates""",
        """sprint every morning | sprint
        ignore sharp pain | sharp""",
    ),
    _topic(
        "leak",
        "fix a leaking tap",
        "call a plumber",
        """close the valve | valve | pressure floods the sink
        replace the washer | washer | rubber wears out
        clean the seat | seat | lime lets drops through
        grease the thread | thread | it turns smoothly
        tape the joint | joint | it seals small gaps
        keep a bucket | bucket | drops ruin the floor""",
        """hammer the pipe | hammer
        glue the spout | glue""",
    ),
    _topic(
        "laptop",
        "speed up my laptop",
        "ask a technician",
        """close unused programs | programs | they eat memory
        free the disk | disk | a full drive crawls
        install updates | updates | fixes save time
        scan for viruses | viruses | they work unseen
        dust the fan | fan | heat slows chips
        trim the autostart | autostart | booting gets shorter""",
        """delete system files | system
        download a booster | booster""",
    ),
    _topic(
        "dog",
        "train my dog",
        "ask a vet",
        """reward at once | reward | dogs link quick events
        use short commands | commands | long speech confuses
        practise every day | practise | habits need repeats
        stay very calm | calm | dogs mirror you
        bring small treats | treats | food keeps attention
        train before dinner | dinner | hungry dogs listen""",
        """shout loudly | shout
        use a shock collar | collar""",
    ),
    _topic(
        "interview",
        "do well in an interview",
        "ask a coach",
        """research the company | company | it shows interest
        prepare three stories | stories | examples convince
        ask good questions | questions | talk goes both ways
        arrive early | early | haste looks careless
        choose neat clothes | clothes | looks count first
        send a thank letter | letter | it keeps you in mind""",
        """invent a degree | degree
        attack your boss | boss""",
    ),
    _topic(
        "stress",
        "handle stress",
        "see a therapist",
        """name the cause | cause | vague fear grows
        breathe out slowly | slowly | it slows the heart
        move your body | move | motion burns tension
        talk with someone | someone | sharing lightens loads
        limit the news | news | alarm feeds alarm
        visit a park | park | trees soothe nerves""",
        """smoke a cigarette | cigarette
        skip all meals | meals""",
    ),
    _topic(
        "bread",
        "bake good bread",
        "ask a baker",
        """weigh the flour | flour | cups mislead
        let dough rise | dough | gas needs hours
        heat the oven fully | oven | crust forms first
        knead until smooth | knead | gluten holds gas
        steam the loaf | steam | skin stays soft
        cool on a rack | rack | damp ruins crust""",
        """add extra sugar | sugar
        rush the mixing | rush""",
    ),
)

WORDINGS: tuple[str, ...] = (
    "how can i {goal} ?",
    "what helps me to {goal} ?",
    "i want to {goal} , what should i do ?",
    "can you tell me how to {goal} ?",
    "what is a good way to {goal} ?",
    "tips to {goal} please",
)
HELD_OUT_WORDINGS = (1, 4)
"""Positions in `WORDINGS` of those that are for evaluation alone."""

"""Teacher assistants (Mirzadeh et al. 2020): knowledge distillation in steps, through students of sizes in between."""

from tutelage.methods.kd import kd
from tutelage.recipes.recipe import Assistant, Recipe
from tutelage.report.references import Paper
from tutelage.students.specs import Between


def takd(alpha: float = 0.7, temperature: float = 2.0, epochs: int = 3, lr: float = 5e-5) -> Recipe:
    """``alpha T^2 KL(p_t || p_s) + (1 - alpha) CE(z_s, y)``, from the teacher to an assistant, and from it to the student.

    One assistant: its number of layers is the geometric mean of the teacher's and the student's, 6 for 12 and 3. Any recipe can
    have assistants.
    """
    return kd(alpha, temperature, epochs, lr).model_copy(
        update={
            "method": "takd",
            "title": "Teacher assistants",
            "paper": Paper(
                text="Mirzadeh et al., AAAI 2020",
                arxiv="1902.03393",
                title="Improved Knowledge Distillation via Teacher Assistant",
                authors="Mirzadeh, Seyed-Iman and Farajtabar, Mehrdad and Li, Ang and Levine, Nir and Matsukawa, Akihiro and "
                "Ghasemzadeh, Hassan",
            ),
            "assistants": [Assistant(student=Between())],
        }
    )

"""The papers of the methods as BibTeX, by their arXiv numbers."""

from __future__ import annotations

import re

# Titles and authors as on arXiv, which also gives the year.
PAPERS = {
    "1312.6184": ("Do Deep Nets Really Need to be Deep?", "Ba, Lei Jimmy and Caruana, Rich"),
    "1412.6550": (
        "{FitNets}: Hints for Thin Deep Nets",
        "Romero, Adriana and Ballas, Nicolas and Kahou, Samira Ebrahimi and Chassang, Antoine and Gatta, Carlo and Bengio, Yoshua",
    ),
    "1503.02531": (
        "Distilling the Knowledge in a Neural Network",
        "Hinton, Geoffrey and Vinyals, Oriol and Dean, Jeff",
    ),
    "1510.00149": (
        "Deep Compression: Compressing Deep Neural Networks with Pruning, Trained Quantization and {Huffman} Coding",
        "Han, Song and Mao, Huizi and Dally, William J.",
    ),
    "1810.04805": (
        "{BERT}: Pre-training of Deep Bidirectional Transformers for Language Understanding",
        "Devlin, Jacob and Chang, Ming-Wei and Lee, Kenton and Toutanova, Kristina",
    ),
    "1902.03393": (
        "Improved Knowledge Distillation via Teacher Assistant",
        "Mirzadeh, Seyed-Iman and Farajtabar, Mehrdad and Li, Ang and Levine, Nir and Matsukawa, Akihiro and Ghasemzadeh, Hassan",
    ),
    "1903.12136": (
        "Distilling Task-Specific Knowledge from {BERT} into Simple Neural Networks",
        "Tang, Raphael and Lu, Yao and Liu, Linqing and Mou, Lili and Vechtomova, Olga and Lin, Jimmy",
    ),
    "1907.09682": ("Similarity-Preserving Knowledge Distillation", "Tung, Frederick and Mori, Greg"),
    "1908.09355": (
        "Patient Knowledge Distillation for {BERT} Model Compression",
        "Sun, Siqi and Cheng, Yu and Gan, Zhe and Liu, Jingjing",
    ),
    "1909.10351": (
        "{TinyBERT}: Distilling {BERT} for Natural Language Understanding",
        "Jiao, Xiaoqi and Yin, Yichun and Shang, Lifeng and Jiang, Xin and Chen, Xiao and Li, Linlin and Wang, Fang and Liu, Qun",
    ),
    "1910.01108": (
        "{DistilBERT}, a distilled version of {BERT}: smaller, faster, cheaper and lighter",
        "Sanh, Victor and Debut, Lysandre and Chaumond, Julien and Wolf, Thomas",
    ),
    "2002.10957": (
        "{MiniLM}: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers",
        "Wang, Wenhui and Wei, Furu and Dong, Li and Bao, Hangbo and Yang, Nan and Zhou, Ming",
    ),
    "2004.02984": (
        "{MobileBERT}: a Compact Task-Agnostic {BERT} for Resource-Limited Devices",
        "Sun, Zhiqing and Yu, Hongkun and Song, Xiaodan and Liu, Renjie and Yang, Yiming and Zhou, Denny",
    ),
    "2004.04037": (
        "{DynaBERT}: Dynamic {BERT} with Adaptive Width and Depth",
        "Hou, Lu and Huang, Zhiqi and Shang, Lifeng and Jiang, Xin and Chen, Xiao and Liu, Qun",
    ),
    "2009.14822": (
        "{Pea-KD}: Parameter-efficient and Accurate Knowledge Distillation on {BERT}",
        "Cho, Ikhyun and Kang, U",
    ),
    "2010.03034": (
        "Why Skip If You Can Combine: A Simple Knowledge Distillation Technique for Intermediate Layers",
        "Wu, Yimeng and Passban, Peyman and Rezagholizadeh, Mehdi and Liu, Qun",
    ),
    "2010.06133": (
        "{BERT-EMD}: Many-to-Many Layer Mapping for {BERT} Compression with Earth Mover's Distance",
        "Li, Jianquan and Liu, Xiaokang and Zhao, Honghong and Xu, Ruifeng and Yang, Min and Jin, Yaohong",
    ),
    "2012.14022": (
        "{ALP-KD}: Attention-Based Layer Projection for Knowledge Distillation",
        "Passban, Peyman and Wu, Yimeng and Rezagholizadeh, Mehdi and Liu, Qun",
    ),
    "2012.15828": (
        "{MiniLMv2}: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained Transformers",
        "Wang, Wenhui and Bao, Hangbo and Huang, Shaohan and Dong, Li and Wei, Furu",
    ),
    "2103.11367": (
        "{ROSITA}: Refined {BERT} cOmpreSsion with InTegrAted techniques",
        "Liu, Yuanxin and Lin, Zheng and Yuan, Fengcheng",
    ),
    "2106.01023": (
        "One Teacher is Enough? {P}re-trained Language Model Distillation from Multiple Teachers",
        "Wu, Chuhan and Wu, Fangzhao and Huang, Yongfeng",
    ),
    "2106.05691": (
        "Marginal Utility Diminishes: Exploring the Minimum Knowledge for {BERT} Knowledge Distillation",
        "Liu, Yuanxin and Meng, Fandong and Lin, Zheng and Wang, Weiping and Zhou, Jie",
    ),
    "2109.10164": (
        "{RAIL-KD}: {RA}ndom Intermediate Layer Mapping for Knowledge Distillation",
        "Haidar, Md Akmal and Anchuri, Nithin and Rezagholizadeh, Mehdi and Ghaddar, Abbas and Langlais, Philippe and "
        "Poupart, Pascal",
    ),
    "2204.00408": (
        "Structured Pruning Learns Compact and Accurate Models",
        "Xia, Mengzhou and Zhong, Zexuan and Chen, Danqi",
    ),
    "2211.14466": (
        "{SKDBERT}: Compressing {BERT} via Stochastic Knowledge Distillation",
        "Ding, Zixiang and Jiang, Guoqing and Zhang, Shuai and Guo, Lin and Lin, Wei",
    ),
    "2305.09098": (
        "Weight-Inherited Distillation for Task-Agnostic {BERT} Compression",
        "Wu, Taiqiang and Hou, Cheng and Lao, Shanshan and Li, Jiayi and Wong, Ngai and Zhao, Zhe and Yang, Yujiu",
    ),
}


def bibtex(paper: str) -> str:
    """BibTeX entries for the known arXiv numbers in a reference, such as "Sun et al., EMNLP 2019, arXiv:1908.09355"."""
    return "\n\n".join(_entry(number) for number in re.findall(r"arXiv:(\d{4}\.\d{4,5})", paper) if number in PAPERS)


def _entry(number: str) -> str:
    title, authors = PAPERS[number]
    first, year = authors.partition(",")[0].lower(), f"20{number[:2]}"
    return "\n".join(
        [
            f"@misc{{{first}{year},",
            f"  title = {{{title}}},",
            f"  author = {{{authors}}},",
            f"  year = {{{year}}},",
            f"  eprint = {{{number}}},",
            "  archivePrefix = {arXiv},",
            "}",
        ]
    )

"""The encoder classes of mteb that were reviewed, and the reason that decides how each is treated.

Read in mteb 2.26.24. A class that is not listed is scoped to the task; a test names each class of the installed mteb
that is missing here, and each that mteb no longer has.
"""

from __future__ import annotations

# Long lists of names, sorted: one name a line would be 200 lines.
# fmt: off
REVIEWED: dict[str, str] = {
    "sentence-transformers": """
        instruct_wrapper.InstructSentenceTransformerModel
        sentence_transformer_wrapper.SentenceTransformerEncoderWrapper
    """,
    "task": """
        align_models.ALIGNModel ast_model.ASTWrapper audio_flamingo.AudioFlamingoWrapper
        audio_qwen2_models.Qwen2AudioWrapper aurola_omni_models.AuroLAOmniWrapper axiotic_models.OgmaWrapper
        bedrock_models.BedrockModel bedrock_models.NovaMultimodalEmbeddingsModel
        bekko_models.BekkoEncoderWrapper bge_structural_separator.StructuralSeparatorEncoder
        bidirlm_omni_models.BidirLMOmniEncoder biovita_models.BioVITAWrapper blip2_models.BLIP2Model
        blip_models.BLIPModel bmretriever_models.BMRetrieverWrapper byrne_models.ByrneEmbedModel
        clap_models.ClapZeroShotWrapper clip_models.CLIPModel cnn14_model.CNN14Wrapper
        cohere_models.CohereTextEmbeddingModel cohere_v.CohereMultiModalModelWrapper
        colmodernvbert_models.BiModernVBertWrapper conan_models.ConanWrapper
        cosmos_embed_models.CosmosEmbed1Model dasheng_models.DashengAudioWrapper
        data2vec_models.Data2VecAudioWrapper dino_models.DINOModel e5_omni_models.E5OmniWrapper e5_v.E5VModel
        eagerworks_models.EagerEmbedV1Wrapper ebind_models.EBindWrapper encodec_model.EncodecWrapper
        evaclip_models.EvaCLIPWrapper facebook_jepa.VJepaV2Wrapper
        fusion_embedding_models.FusionEmbeddingWrapper geevec_models.GeeVecAPIModel
        geevec_models.GeeVecLiteModel gme_v_models.GmeQwen2VL google_embeddinggemma.EmbeddingGemma2Wrapper
        google_gemini.GoogleGeminiEmbeddingModel google_text_embedding.GoogleTextEmbeddingModel
        gve_models.GVEWrapper hear_s11_models.HeARS11AudioWrapper hubert_models.HubertWrapper
        imagebind_models.ImageBindWrapper ingot_models.IngotAPIEncoder instruct_wrapper.InstructGritLMModel
        jasper_models.JasperModel jina_clip.JinaCLIPModel jina_models.JinaV4Wrapper
        jina_models.JinaV5OmniWrapper jina_models.JinaV5TextWrapper jina_models.JinaWrapper
        kalm_models.KALMWrapper language_bind_models.LanguageBindAudioWrapper
        language_bind_models.LanguageBindImageWrapper language_bind_models.LanguageBindOmniWrapper
        language_bind_models.LanguageBindVideoWrapper lco_embedding_models.LCOEmbedding
        llm2clip_models.LLM2CLIPAbsEncoder llm2vec_models.LLM2VecModel mcinext_models.HakimModelWrapper
        mctct_model.MCTCTWrapper metaclip_models.MetaClip2Model mms_models.MMSWrapper moca_models.MoCaWrapper
        moco_models.MOCOv3Model model2vec_models.Model2VecModel msclap_models.MSClapWrapper
        muq_mulan_model.MuQMuLanWrapper nanovdr_models.NanoVDRWrapper
        no_instruct_sentence_models.NoInstructModel nomic_models.NomicWrapper
        nomic_models_vision.NomicVisionModel nomic_multimodal.BiQwen2_5Wrapper nvidia_models.LlamaEmbedNemotron
        nvidia_models._NVEmbedWrapper nvidia_nemotron_vl_models.LlamaNemotronEmbedVL
        omni_embed_nemotron_models.OmniEmbedNemotronWrapper
        omniretriever_models.OmniRetrieverWrapper omnivinci_models.OmniVinciWrapper openai_models.OpenAIModel
        openai_wrappers.OpenAIAPIEncodeWrapper openclip_models.OpenCLIPModel ops_mm_models.OpsMMEmbeddingWrapper
        ops_moa_models.OPSWrapper pe_av_models.PEAudioVisualWrapper promptriever_models.PromptrieverModel
        ps3_models.PS3Model qwen3_vl_embedding_models.Qwen3VLEmbeddingWrapper
        qwen3_voice_models.Qwen3VoiceEmbeddingWrapper qwen_omni_lm.QwenOmniWrapper radio_models.RADIOModel
        random_baseline.RandomEncoderBaseline repllama_models.RepLLaMAModel rzen_embed_model.RzenEmbedWrapper
        seamlessm4t_models.SeamlessM4TWrapper seed_1_6_embedding_models.Seed16EmbeddingWrapper
        seed_1_6_embedding_models_1215.Seed16EmbeddingWrapper seed_models.SeedTextEmbeddingModel
        semantic_router_multimodal_models.SemanticRouterMultiModalEmbedLargeWrapper
        semantic_router_multimodal_models.SemanticRouterMultiModalEmbedSmallWrapper
        semantic_router_multimodal_models.SemanticRouterMultiModalEmbedWrapper
        sentence_transformer_wrapper.SentenceTransformerMultimodalEncoderWrapper sewd_models.SewDWrapper
        siglip_models.SiglipModelWrapper spectral_models.SpectralEmbedModel speecht5_models.SpeechT2Multimodal
        speecht5_models.SpeechT5Audio speecht5_models.SpeechT5Text
        tevatron_omni_embed_models.TevatronOmniEmbedWrapper tipsv2_models.TIPSv2Model uae_models.UAEWrapper
        uembed_models.UEmbedEncoder ume_r1.UMER1Wrapper unime_v2_models.UniMEV2Wrapper
        unispeech_models.UniSpeechWrapper unite_models.UniteWrapper vggish_models.VGGishWrapper
        viclip_models.ViCLIPWrapper video_wrappers.video2images_wrapper.Video2ImagesWrapper
        videomae_models.VideoMAEWrapper videoprism_models.VideoPrismClipWrapper
        videoprism_models.VideoPrismVisionWrapper virtue_models.VirtueWrapper visrag_models.VisRAGRetWrapper
        vista_models.VisualizedBGEWrapper vllm_wrapper.VllmEncoderWrapper vlm2vec_models.VLM2VEC2Wrapper
        vlm2vec_models.VLM2VecWrapper voiceclap_models.VoiceCLAPSmallWrapper voyage_models.VoyageModel
        voyage_v.VoyageMultiModalModelWrapper wav2clip_model.Wav2ClipZeroShotWrapper
        wav2vec2_models.Wav2Vec2AudioWrapper wavlm_models.WavlmWrapper wemm_models.WeMMEncoderWrapper
        whisper_models.WhisperAudioWrapper xclip_models.XCLIPModel yamnet_models.YAMNetWrapper
    """,
    "contextual": """
        cde_models.CDEWrapper
    """,
    "batch": """
        penguin_models.PenguinEncoderModel
    """,
    "zeros": """
        octen_models.OctenVLEmbeddingModel
    """,
    "multi-vector": """
        argus_qwen35.ArgusColQwen35Wrapper colmodernvbert_models.ColModernVBertWrapper
        colnanovdr_models.ColNanoVDRWrapper colpali_models.ColPaliEngineWrapper colpali_models.ColPaliWrapper
        colqwen_models.ColQwen2Wrapper colqwen_models.ColQwen2_5OmniWrapper colqwen_models.ColQwen2_5Wrapper
        colqwen_models.ColQwen3EngineWrapper colqwen_models.ColQwen3Wrapper colqwen_models.ColQwen3_5Wrapper
        colsmol_models.ColSmolWrapper evie_models.EvieWrapper
        granite_vision_embedding_models.GraniteVisionEmbeddingWrapper
        nvidia_nemotron_vl_models.NemotronColEmbedVL ops_colqwen3_models.OpsColQwen3Wrapper
        slm_models.SLMBaseWrapper slm_models.SLMColLFM2Wrapper slm_models.SLMColMinistral3Wrapper
        slm_models.SLMColQwen3Wrapper webai_models.ColVec11Wrapper webai_models.ColVec1Wrapper
    """,
    "sparse": """
        random_baseline.RandomSparseEncoderBaseline sentence_transformer_wrapper.SparseEncoderWrapper
    """,
    "searches": """
        bb25.BB25Search bm25.BM25Search hybrid_wrappers.HybridSearch openai_wrappers.OpenAIAPITokenEmbedWrapper
        pylate_models.MultiVectorModel pylate_models.PylateSearchEncoder random_baseline.RandomColBERTBaseline
        search_wrappers.SearchCrossEncoderWrapper search_wrappers.SearchEncoderWrapper
        sentence_transformer_wrapper.MultiVectorSearchEncoderWrapper
        sentence_transformer_wrapper.MultiVectorWrapper topk_embed_v1.TopkEmbedWrapper
    """,
    "scores pairs": """
        jina_models.JinaRerankerV3Wrapper kalm_reranker.KaLMRerankerWrapper
        lighton_rerank_models.LightOnListwiseRerankerWrapper listconranker.ListConRanker
        openai_wrappers.OpenAIAPIRerankWrapper querit_models.QueritWrapper qwen3_reranker.Qwen3RerankerWrapper
        qwen3_vl_reranker.Qwen3VLRerankerWrapper random_baseline.NoRerankingBaseline
        random_baseline.RandomCrossEncoderBaseline rerankers_custom.BGEReranker rerankers_custom.JinaReranker
        rerankers_monot5_based.FLANT5Reranker rerankers_monot5_based.FollowIRReranker
        rerankers_monot5_based.LlamaReranker rerankers_monot5_based.MistralReranker
        rerankers_monot5_based.MonoT5Reranker sentence_transformer_wrapper.CrossEncoderWrapper
        vllm_wrapper.VllmCrossEncoderWrapper
    """,
    "compresses": "compression_wrappers.compression_wrapper.CompressionWrapper",
    "caches": "cache_wrappers.cache_wrapper.CachedEmbeddingWrapper",
}
# fmt: on
"""For each reason of `classification.REASONS`, the names of classes as `classification.path_of` gives them."""

REASON_OF = {name: reason for reason, names in REVIEWED.items() for name in names.split()}
"""The reason of each class."""

_SERVICE_NAMES = """
    bedrock_models.BedrockModel bedrock_models.NovaMultimodalEmbeddingsModel
    cohere_models.CohereTextEmbeddingModel cohere_v.CohereMultiModalModelWrapper conan_models.ConanWrapper
    geevec_models.GeeVecAPIModel google_gemini.GoogleGeminiEmbeddingModel
    google_text_embedding.GoogleTextEmbeddingModel ingot_models.IngotAPIEncoder
    mcinext_models.HakimModelWrapper octen_models.OctenVLEmbeddingModel openai_models.OpenAIModel
    openai_wrappers.OpenAIAPIEncodeWrapper seed_1_6_embedding_models.Seed16EmbeddingWrapper
    seed_1_6_embedding_models_1215.Seed16EmbeddingWrapper seed_models.SeedTextEmbeddingModel
    voyage_models.VoyageModel voyage_v.VoyageMultiModalModelWrapper
"""

SERVICES = frozenset(_SERVICE_NAMES.split())
"""Classes that send each item to a service over the network; most charge for it."""

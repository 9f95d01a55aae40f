// tokenizer.json (model type BPE) and GPT-2's vocab.json with merges.txt.
#include <limits>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/base/text.h"
#include "data/tokenizer_class.h"
#include "data/tokenizer_vocab.h"

namespace thimble {
namespace {

void read_vocab(const JsonField& section, VocabBuilder& vocab) {
  for (const auto& [text, id] : section.members()) {
    vocab.add_entry(text, id.integer(0, kMaxTokenId));
  }
}

/// A merge given as "left right" or ["left", "right"].
void read_merge(const JsonField& merge, std::int32_t rank, const VocabBuilder& vocab,
                BpeModel& model) {
  if (merge.is_array()) {
    const auto parts = merge.elements();
    if (parts.size() != 2)
      throw_user("{}: a merge has 2 parts, found {}", merge.where(), parts.size());
    add_named_merge(vocab, {parts[0].string(), parts[1].string(), rank}, merge.where(), model);
    return;
  }
  const std::string text = merge.string();
  const std::size_t space = text.find(' ');
  if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
    throw_user("{}: '{}' is not two parts with one space between", merge.where(), printable(text));
  }
  const std::string_view view = text;
  add_named_merge(vocab, {view.substr(0, space), view.substr(space + 1), rank}, merge.where(),
                  model);
}

void check_model(const JsonField& model) {
  model.only_keys({"type", "dropout", "unk_token", "continuing_subword_prefix",
                   "end_of_word_suffix", "fuse_unk", "byte_fallback", "ignore_merges", "vocab",
                   "merges"});
  const JsonField type = model["type"];
  if (!type.is_null() && type.string() != "BPE") {
    throw_user("{} '{}' is not supported; supported: BPE", type.where(), printable(type.string()));
  }
  if (!model["dropout"].is_null()) {
    throw_user("{} is not supported; supported: null", model["dropout"].where());
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const JsonField field = model[key];
    if (!field.is_null() && !field.string().empty()) {
      throw_user("{} '{}' is not supported; supported: null", field.where(),
                 printable(field.string()));
    }
  }
}

BpeModel read_model(const JsonField& section, const VocabBuilder& vocab, bool byte_level,
                    std::string space) {
  BpeConfig config;
  config.vocab = vocab.model_vocab();
  config.byte_level = byte_level;
  config.byte_fallback = section["byte_fallback"].boolean(false);
  config.fuse_unknown = section["fuse_unk"].boolean(false);
  config.ignore_merges = section["ignore_merges"].boolean(false);
  config.space = std::move(space);
  if (const JsonField unknown = section["unk_token"];
      !unknown.is_null() && !unknown.string().empty()) {
    const auto id = vocab.id_of(unknown.string());
    if (!id)
      throw_user("{} '{}' is not in the vocabulary", unknown.where(), printable(unknown.string()));
    config.unknown_id = *id;
  }
  BpeModel model(std::move(config));
  std::int32_t rank = 0;
  for (const JsonField& merge : section["merges"].elements())
    read_merge(merge, rank++, vocab, model);
  model.finish();
  return model;
}

/// The character that stands for a space in the pieces that reach the merges, if pieces may be
/// whole documents.
std::string document_space(const std::vector<SplitterStage>& splitters, bool byte_level) {
  if (byte_level) return {};
  for (const SplitterStage& stage : splitters) {
    if (const auto* metaspace = std::get_if<MetaspaceStage>(&stage)) return metaspace->replacement;
  }
  return std::string(kMetaspace);
}

void check_decoder(const JsonField& section, const DecoderRules& rules, bool byte_level) {
  if (!section.is_null() && rules.byte_level != byte_level) {
    throw_user(
        "{}: a ByteLevel decoder and a ByteLevel pre_tokenizer belong together, found only one of "
        "them",
        section.where());
  }
  if (byte_level &&
      (!rules.replacements.empty() || rules.byte_fallback || rules.start_strip_count > 0)) {
    throw_user("{}: ByteLevel cannot be combined with other decoders", section.where());
  }
}

void check_ids(const DocumentFrame& frame, const VocabBuilder& vocab, const std::string& where) {
  for (const auto& id : {frame.first, frame.last}) {
    if (id && *id > vocab.max_id()) {
      throw_user("{}: special token id {} is outside the vocabulary [0, {}]", where, *id,
                 vocab.max_id());
    }
  }
}

}  // namespace

std::unique_ptr<Tokenizer> make_json_tokenizer(std::string_view text, const std::string& name,
                                               const TokenizerConfig& config) {
  const JsonFile file(text, name);
  const JsonField root = file.root();
  // Padding and truncation describe batches of another program; sequences are packed and cut
  // elsewhere here.
  root.only_keys({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
                  "post_processor", "decoder", "model"});
  const JsonField model = root["model"];
  check_model(model);
  Splitters splitters = read_pre_tokenizer(root["pre_tokenizer"]);
  const DecoderRules decoder = read_decoder(root["decoder"]);
  check_decoder(root["decoder"], decoder, splitters.byte_level);

  VocabBuilder vocab(name, splitters.byte_level);
  read_vocab(model["vocab"], vocab);
  if (const JsonField added = root["added_tokens"]; !added.is_null()) {
    for (const JsonField& token : added.elements()) {
      vocab.add_token(
          read_added_token(token, narrow<std::int32_t>(token["id"].integer(0, kMaxTokenId))));
    }
  }
  for (const AddedToken& token : config.added) {
    if (!vocab.id_of(token.text)) vocab.add_token(token);
  }
  vocab.check_density();
  const DocumentFrame frame = read_post_processor(root["post_processor"]);
  check_ids(frame, vocab, root["post_processor"].where());

  std::string space = document_space(splitters.stages, splitters.byte_level);
  PipelineParts parts{vocab.added(),
                      read_normalizer(root["normalizer"]),
                      std::move(splitters.stages),
                      read_model(model, vocab, splitters.byte_level, std::move(space)),
                      decoder.start_strip,
                      decoder.start_strip_count,
                      {}};
  parts.info.name = name;
  parts.info.vocab_size = vocab.max_id() + 1;
  const TokenizerDefaults defaults{frame.first, frame.last, frame.first.has_value(),
                                   frame.last.has_value()};
  resolve_special_tokens(
      config, defaults, [&](std::string_view t) { return vocab.id_of(t); }, parts.info);
  parts.info.digest = tokenizer_digest(parts.info, {text});
  return std::make_unique<PipelineTokenizer>(std::move(parts), vocab.texts(decoder));
}

std::unique_ptr<Tokenizer> load_tokenizer_json(std::string_view text, const std::string& name) {
  return make_json_tokenizer(text, name, {});
}

namespace {

void read_merges_text(std::string_view text, const std::string& name, const VocabBuilder& vocab,
                      BpeModel& model) {
  std::int32_t rank = 0;
  for (std::int64_t line = 1; !text.empty(); ++line) {
    const std::size_t end = text.find('\n');
    std::string_view merge = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (merge.ends_with('\r')) merge.remove_suffix(1);
    if (merge.starts_with("#version") || (merge.empty() && text.empty())) continue;
    const std::string where = fmt::format("{}:{}", name, line);
    const std::size_t space = merge.find(' ');
    if (space == std::string_view::npos || merge.find(' ', space + 1) != std::string_view::npos) {
      throw_user("{}: '{}' is not two parts with one space between", where, printable(merge));
    }
    add_named_merge(vocab, {merge.substr(0, space), merge.substr(space + 1), rank++}, where, model);
  }
}

}  // namespace

std::unique_ptr<Tokenizer> make_gpt2_tokenizer(std::string_view vocab_text, std::string_view merges,
                                               const std::string& name,
                                               const std::string& merges_name,
                                               const TokenizerConfig& config) {
  const JsonFile file(vocab_text, name);
  VocabBuilder vocab(name, true);
  read_vocab(file.root(), vocab);
  for (const AddedToken& token : config.added) vocab.add_token(token);
  ClassRules rules = rules_of_class(config);
  for (AddedToken& token : rules.special) {
    const auto id = vocab.id_of(token.text);
    if (!id) continue;
    token.id = *id;
    vocab.add_token(token);
  }
  TokenizerDefaults defaults;
  defaults.bos_id = vocab.id_of(rules.bos);
  defaults.eos_id = vocab.id_of(rules.eos);
  defaults.add_bos = defaults.add_eos = rules.frames_documents;
  vocab.check_density();
  BpeConfig bpe;
  bpe.vocab = vocab.model_vocab();
  bpe.byte_level = true;
  PipelineParts parts{vocab.added(),
                      std::move(rules.normalizers),
                      std::move(rules.splitters),
                      BpeModel(std::move(bpe)),
                      {},
                      0,
                      {}};
  read_merges_text(merges, merges_name, vocab, parts.model);
  parts.model.finish();
  parts.info.name = name;
  parts.info.vocab_size = vocab.max_id() + 1;
  resolve_special_tokens(
      config, defaults, [&](std::string_view t) { return vocab.id_of(t); }, parts.info);
  parts.info.digest = rules.digest.empty()
                          ? tokenizer_digest(parts.info, {vocab_text, merges})
                          : tokenizer_digest(parts.info, {vocab_text, merges, rules.digest});
  return std::make_unique<PipelineTokenizer>(std::move(parts), vocab.texts({}));
}

}  // namespace thimble

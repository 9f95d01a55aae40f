// The keys of the job itself, of [model] and of [data].
#include "launcher/job/fields.h"

namespace thimble::job {
namespace {

constexpr Range at_least(double min) {
  return {.min = min};
}
constexpr Range above(double min) {
  return {.min = min, .min_open = true};
}

void visit_source_fields(const FieldVisitor& visit, DataSource& source) {
  Field path{.name = "path",
             .doc =
                 "File, glob or list of them: .jsonl, .jsonl.gz, .txt, or the output of `thimble "
                 "tokenize`",
             .value = &source.path,
             .required = true,
             .path = PathKind::kInput,
             .resume = ResumeClass::kDataContent};
  visit(path);
  Field format{
      .name = "format",
      .doc =
          "What a sample is; auto: from the file's name and the keys of its first lines, printed",
      .value = choice(source.format),
      .later = {"chat"}};
  visit(format);
  Field separator{.name = "document_separator",
                  .doc = "Where one document of a .txt ends and the next begins",
                  .value = &source.document_separator,
                  .default_text = "one file is one document"};
  visit(separator);
  Field fields{
      .name = "fields",
      .doc =
          "Which keys of the file hold what: { text = \"content\" } or { prompt = \"question\", "
          "completion = \"answer\" }",
      .value = &source.fields,
      .default_text = "the same names",
      .choices = {"text", "prompt", "completion", "messages", "role", "content"}};
  visit(fields);
  Field roles{
      .name = "roles_to_train",
      .doc = "Chat: the roles whose content carries loss; a message's own \"train\": false wins",
      .value = &source.roles_to_train,
      .released = false};
  visit(roles);
  Field eos{.name = "train_on_eos",
            .doc = "Chat: which ends of turn are trained",
            .value = choice(source.train_on_eos),
            .released = false};
  visit(eos);
  Field inputs{.name = "train_on_inputs",
               .doc = "Prompt and completion: true puts the loss on the prompt too",
               .value = &source.train_on_inputs};
  visit(inputs);
  Field special{
      .name = "special_tokens",
      .doc =
          "What \"<|im_end|>\" in the data is: parse: that token, as the tokenizers library "
          "has it; text: characters like any",
      .value = choice(source.special_tokens)};
  visit(special);
}

void visit_job_tables(const FieldVisitor& visitor, JobConfig& job) {
  const auto visit = [&](Field field) { visitor(field); };
  visit({.name = "model", .doc = "What is trained", .value = table(job.model)});
  visit({.name = "data", .doc = "What it is trained on", .value = table(job.data)});
  visit({.name = "training", .doc = "How long, in which batches", .value = table(job.training)});
  visit(
      {.name = "optimizer", .doc = "How gradients change weights", .value = table(job.optimizer)});
  visit({.name = "lr_scheduler",
         .doc = "The learning rate over the run",
         .value = table(job.lr_scheduler)});
  visit({.name = "memory",
         .doc = "What the run may use, and what it saves",
         .value = table(job.memory)});
  visit({.name = "parallelism",
         .doc = "How ranks share the work; their number comes from `launch`, mpirun or srun",
         .value = table(job.parallelism)});
  visit({.name = "checkpoint", .doc = "When the run is saved", .value = table(job.checkpoint)});
  visit({.name = "export",
         .doc = "The Hugging Face directory that a finished run leaves",
         .value = table(job.export_)});
  visit({.name = "eval", .doc = "Evaluation during training", .value = table(job.eval)});
  visit({.name = "logging", .doc = "What a run reports", .value = table(job.logging)});
}

}  // namespace

void visit_fields(const FieldVisitor& visitor, JobConfig& job) {
  const auto visit = [&](Field field) { visitor(field); };
  visit({.name = "name",
         .doc = "Everything is written to output_dir/name",
         .value = &job.name,
         .default_text = "the job file's stem",
         .resume = ResumeClass::kContinues});
  visit({.name = "output_dir",
         .doc = "Where runs are written; relative to the working directory, all other paths to the "
                "job file",
         .value = &job.output_dir,
         .path = PathKind::kOutput,
         .resume = ResumeClass::kContinues});
  visit({.name = "seed",
         .doc = "Initialisation, data order, rounding, projections",
         .value = &job.seed,
         .range = at_least(0)});
  visit({.name = "device",
         .doc = "Where the model computes; cuda: a GPU for each rank",
         .value = choice(job.device),
         .resume = ResumeClass::kContinues});
  visit({.name = "threads",
         .doc = "Per rank; auto follows the CPU quota and affinity",
         .value = &job.threads,
         .range = {.min = 1, .max = 4096},
         .resume = ResumeClass::kContinues});
  visit_job_tables(visitor, job);
}

void visit_fields(const FieldVisitor& visitor, ModelConfig& model) {
  const auto visit = [&](Field field) { visitor(field); };
  visit({.name = "path",
         .doc = "Hugging Face directory, Hub id that is in the local cache, or a run; exactly one "
                "of path, config",
         .value = &model.path,
         .path = PathKind::kModel,
         .resume = ResumeClass::kModelContent});
  visit({.name = "config",
         .doc = "A config.json: train from scratch; exactly one of path, config",
         .value = &model.config,
         .path = PathKind::kInput,
         .resume = ResumeClass::kModelContent});
  visit({.name = "dtype", .doc = "Compute weights and activations", .value = choice(model.dtype)});
  visit({.name = "linear_dtype",
         .doc = "Matmuls of linear layers but the head's; auto: dtype; fp8: inputs and weights in "
                "e4m3, gradients in e5m2, scaled by tensor, summed in fp32 (a CPU rounds alike and "
                "gains nothing)",
         .value = choice(model.linear_dtype)});
  visit({.name = "master_weights",
         .doc = "The weights the optimizer updates; split16: bf16 and a 16-bit remainder, "
                "lossless; none: "
                "stochastic rounding",
         .value = choice(model.master_weights)});
  visit({.name = "tokenizer",
         .doc = "Directory of the tokenizer; \"byte\": one token per byte",
         .value = &model.tokenizer,
         .default_text = "the model's",
         .path = PathKind::kTokenizer,
         .resume = ResumeClass::kModelContent});
  visit({.name = "chat_template",
         .doc = "tokenizer, chatml, llama3, mistral or a .jinja file",
         .value = &model.chat_template,
         .released = false});
  visit({.name = "eos_token",
         .doc = "The token that ends a turn; exported too",
         .value = &model.eos_token,
         .default_text = "the template's end of turn",
         .released = false});
  visit({.name = "rope_scaling",
         .doc =
             "Longer contexts than the model was made for: { rope_type = \"yarn\", factor = 4.0, "
             "original_max_position_embeddings = 32768 }",
         .value = inline_table(model.rope_scaling)});
  visit({.name = "freeze",
         .doc = "Regular expressions on whole tensor names: no gradient, no optimizer state",
         .value = &model.freeze});
}

void visit_fields(const FieldVisitor& visitor, RopeScalingConfig& rope) {
  const auto visit = [&](Field field) { visitor(field); };
  visit({.name = "rope_type",
         .doc = "How positions are stretched",
         .value = choice(rope.rope_type),
         .required = true});
  visit({.name = "factor",
         .doc = "New context length over the original one",
         .value = &rope.factor,
         .range = at_least(1)});
  visit({.name = "original_max_position_embeddings",
         .doc = "The context length the model was made for",
         .value = &rope.original_max_position_embeddings,
         .range = at_least(1),
         .unit = "tokens",
         .default_text = "the model's"});
  visit({.name = "low_freq_factor",
         .doc = "llama3: below it, frequencies are stretched fully",
         .value = &rope.low_freq_factor,
         .range = above(0)});
  visit({.name = "high_freq_factor",
         .doc = "llama3: above it, frequencies are left alone",
         .value = &rope.high_freq_factor,
         .range = above(0)});
  visit({.name = "beta_fast",
         .doc = "yarn: rotations above which a dimension is left alone",
         .value = &rope.beta_fast,
         .range = above(0)});
  visit({.name = "beta_slow",
         .doc = "yarn: rotations below which a dimension is stretched fully",
         .value = &rope.beta_slow,
         .range = above(0)});
  visit({.name = "attention_factor",
         .doc = "yarn: factor on rotated queries and keys",
         .value = &rope.attention_factor,
         .range = above(0)});
}

void visit_fields(const FieldVisitor& visitor, DataConfig& data) {
  const auto visit = [&](Field field) { visitor(field); };
  visit({.name = "seq_len",
         .doc = "Length of a row",
         .value = &data.seq_len,
         .range = {.min = 1, .max = 16'777'216},
         .unit = "tokens",
         .required = true});
  visit({.name = "packing",
         .doc = "Several samples a row, never attending to each other",
         .value = &data.packing});
  visit({.name = "excess_length_strategy",
         .doc = "A sample longer than a row; auto: split for text, error for all else",
         .value = choice(data.excess_length_strategy)});
  visit(
      {.name = "val_set_size",
       .doc = "Held out for evaluation: a share (< 1) or a number of samples; 0 with [[data.eval]]",
       .value = &data.val_set_size,
       .range = at_least(0)});
  visit({.name = "on_bad_line",
         .doc = "A line of JSON that cannot be read: error: names it and stops; skip: counts it "
                "and goes on",
         .value = choice(data.on_bad_line)});
  visit({.name = "cache_dir",
         .doc = "Where tokenised data is kept, keyed by content, tokenizer and fields",
         .value = &data.cache_dir,
         .path = PathKind::kCache,
         .resume = ResumeClass::kContinues});
  visit({.name = "train",
         .doc = "Training data; repeat the table to mix",
         .value = table_list(data.train),
         .required = true});
  visit({.name = "eval",
         .doc = "Evaluation data, each file by name; instead of val_set_size",
         .value = table_list(data.eval)});
}

void visit_fields(const FieldVisitor& visitor, TrainSource& source) {
  visit_source_fields(visitor, source);
  Field weight{.name = "weight",
               .doc = "Sampling weight against the other [[data.train]]",
               .value = &source.weight,
               .range = above(0)};
  visitor(weight);
}

void visit_fields(const FieldVisitor& visitor, EvalSource& source) {
  const FieldVisitor continues = [&](Field& field) {
    field.resume = ResumeClass::kContinues;
    visitor(field);
  };
  Field name{.name = "name",
             .doc = "How metrics call it",
             .value = &source.name,
             .default_text = "the file's stem"};
  continues(name);
  visit_source_fields(continues, source);
}

}  // namespace thimble::job

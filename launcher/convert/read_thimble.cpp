// Thimble's checkpoints and runs as images.
#include <spdlog/spdlog.h>

#include "checkpoint/checkpoint_directory.h"
#include "checkpoint/checkpoint_source.h"
#include "checkpoint/manifest.h"
#include "core/base/error.h"
#include "core/nn/state_table.h"
#include "launcher/convert/image_readers.h"
#include "launcher/job/load_job.h"
#include "models/hf_export.h"
#include "train/train_state.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

// The checkpoint, and what it is read with.
struct OpenCheckpoint {
  std::unique_ptr<FileEngine> engine = make_file_engine();
  std::unique_ptr<CheckpointReader> reader;
  std::shared_ptr<const File> data;
};

// Weights in a format of their own: in 8 bits, or as halves.
class OpenedSource final : public TensorSource {
 public:
  explicit OpenedSource(std::shared_ptr<OpenCheckpoint> opened) : opened_(std::move(opened)) {}
  void read(const ParamInfo& info, Slice slice, const Tensor& dst) override {
    const auto arena = Arena::make_cpu(4 * info.shape.numel() + (std::int64_t{1} << 20));
    CheckpointSource(*opened_->reader, *arena).read(info, slice, dst);
  }

 private:
  std::shared_ptr<OpenCheckpoint> opened_;
};

std::shared_ptr<OpenCheckpoint> open_checkpoint(const fs::path& path, bool is_run) {
  auto opened = std::make_shared<OpenCheckpoint>();
  const CheckpointIo io{*opened->engine, {}};
  if (is_run) {
    std::vector<std::string> rejected;
    auto newest = open_newest_valid(path / "checkpoints", io, rejected);
    for (const std::string& r : rejected) spdlog::warn("passed over: {}", r);
    if (!newest) throw_user("{}: the run has no usable checkpoint", path.string());
    opened->reader = std::make_unique<CheckpointReader>(std::move(*newest));
  } else {
    opened->reader = std::make_unique<CheckpointReader>(CheckpointReader::open(path, io));
  }
  opened->data =
      std::make_shared<const File>(File::open_read(opened->reader->path() / kCheckpointDataName));
  return opened;
}

// An array in the file as it is; none if the checkpoint has none of that name and kind.
std::optional<StoredArray> plain_array(const OpenCheckpoint& opened, const ParamInfo& info,
                                       const char* slot) {
  const auto found = opened.reader->tensors().find(fmt::format("{}/{}", info.name, slot));
  if (found == opened.reader->tensors().end()) return std::nullopt;
  const auto& [tensor, offset, bytes] = found->second;
  const bool is_float = tensor.dtype == DType::kF32 || tensor.dtype == DType::kBF16;
  const Extents shape(info.shape.dims().begin(), info.shape.dims().end());
  if (!is_float || tensor.shape != shape) return std::nullopt;
  Extents strides = row_major_strides(shape);
  if (tensor.transposed) strides = {1, shape[0]};
  return array_of_pieces(fmt::format("{}: {}/{}", opened.reader->path().string(), info.name, slot),
                         tensor.dtype, shape,
                         {{.file = opened.data,
                           .offset = offset,
                           .begin = Extents(shape.size(), 0),
                           .extent = shape,
                           .strides = strides}});
}

// Whether its values lie in the file as they are, not in 8 bits or as halves.
bool has_plain_weights(const OpenCheckpoint& opened, const ParamInfo& info) {
  if (opened.reader->find(info.name, slot_names::kRemainder) != nullptr) return false;
  return plain_array(opened, info, slot_names::kMaster) ||
         plain_array(opened, info, slot_names::kWeight);
}

ImageParam param_of(const std::shared_ptr<OpenCheckpoint>& opened, const ParamInfo& info) {
  ImageParam param;
  const std::optional<StoredArray> master = plain_array(*opened, info, slot_names::kMaster);
  const std::optional<StoredArray> weight = plain_array(*opened, info, slot_names::kWeight);
  if (!has_plain_weights(*opened, info))
    param.master = array_of_source(info, std::make_shared<OpenedSource>(opened));
  if (master) param.master = master;
  param.weight = weight ? *weight : *param.master;
  if (param.weight.dtype == DType::kF32) param.master.reset();
  param.exp_avg = plain_array(*opened, info, "exp_avg");
  param.exp_avg_sq = plain_array(*opened, info, "exp_avg_sq");
  return param;
}

ModelOrigin origin_of_checkpoint(const CheckpointIdentity& identity, const job::JobConfig& trained,
                                 const std::string& name) {
  ModelOrigin origin{.config = parse_model_config(identity.model_config, name)};
  if (!trained.model.path.empty()) {
    origin.source_config = identity.model_config;
    origin.model_dir = trained.model.path;
    if (!fs::is_directory(origin.model_dir)) {
      spdlog::warn("the model {} is not there any more; of its other files none are carried along",
                   trained.model.path);
      origin.model_dir.clear();
    }
  }
  origin.tokenizer = identity.tokenizer;
  origin.byte_tokenizer = identity.tokenizer == "byte";
  return origin;
}

}  // namespace

CheckpointImage read_thimble_image(const fs::path& path, bool is_run) {
  const std::shared_ptr<OpenCheckpoint> opened = open_checkpoint(path, is_run);
  const CheckpointReader& reader = *opened->reader;
  const std::string name = reader.path().string();
  spdlog::info("{}: step {}, every byte verified", name, reader.step());
  const CheckpointIdentity identity = checkpoint_identity(reader);
  const job::JobConfig trained = job::parse_job_text(identity.resolved_job, name);
  if (trained.compressor.type != job::CompressorType::kNone) {
    throw_user(
        "{}: it holds a compressor, not the model beside it; the run's model/ is the compressor",
        name);
  }
  if (trained.adapter.type != job::AdapterType::kNone) {
    throw_user(
        "{}: it holds an adapter, not the model beside it; the run's model/ is the adapter in "
        "PEFT's "
        "format, and `thimble merge` makes a model of both",
        name);
  }
  CheckpointImage image{.kind = is_run ? "run" : "checkpoint",
                        .path = path,
                        .dtype = trained.model.dtype,
                        .step = reader.step(),
                        .tokens_seen = checkpoint_state(reader).tokens_seen};
  image.origin = origin_of_checkpoint(identity, trained, name);
  const job::OptimizerConfig& optimizer = trained.optimizer;
  image.adam = AdamSettings{.lr = optimizer.lr,
                            .beta1 = optimizer.betas[0],
                            .beta2 = optimizer.betas[1],
                            .eps = optimizer.eps,
                            .weight_decay = optimizer.weight_decay};
  const Transformer model(image.origin->config);
  for (const ParamId id : model.params().ids()) {
    const ParamInfo& info = model.params().info(id);
    image.params.emplace(info.name, param_of(opened, info));
    image.reads_whole_tensors |= !has_plain_weights(*opened, info);
  }
  image.why_no_state = fmt::format(
      "{}: the state of its optimizer is not Adam's two moments in 16 or 32 bits", name);
  return image;
}

}  // namespace thimble

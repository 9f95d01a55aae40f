#include <functional>

#include "core/base/error.h"
#include "launcher/convert/output_files.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

constexpr const char* kMetadata = "torch.distributed.checkpoint.metadata";
constexpr std::int64_t kFileBytes = std::int64_t{1} << 30;  // about
constexpr const char* kSettings = "optim.param_groups";

// An item of a data file.
struct Item {
  std::string fqn;
  std::vector<std::string> path;  // of keys in the state dict
  const StoredArray* array;       // null: an object
  std::function<void(TorchWriter&)> fill;
  std::int64_t file = 0, offset = 0, bytes = 0;
};

std::string data_name(std::int64_t file) {
  return fmt::format("__0_{}.distcp", file);
}

// One pickle with all that lies where (torch.distributed.checkpoint.metadata, Metadata).
class MetadataPickle {
 public:
  explicit MetadataPickle(const std::vector<Item>& items) : items_(items) {}

  std::string text() {
    object(kMetadata, "Metadata", [&] {
      field("state_dict_metadata", [&] { dict([&](const Item& item) { about(item); }); });
      field("planner_data", [&] { dict([&](const Item& item) { path(item); }); });
      field("storage_data", [&] { places(); });
      field("storage_meta", [&] { out_.none(); });
      field("version", [&] { out_.none(); });
    });
    return out_.finish();
  }

 private:
  using Body = std::function<void()>;

  // An object of a class with the fields that `body` puts.
  void object(const char* module, const char* name, const Body& body) {
    out_.global(module, name);
    out_.begin_tuple();
    out_.end_tuple();
    out_.make();
    out_.begin_dict();
    body();
    out_.end_dict();
    out_.build();
  }
  void field(const char* key, const Body& value) {
    out_.text(key);
    value();
  }
  void dict(const std::function<void(const Item&)>& value) {
    out_.begin_dict();
    for (const Item& item : items_) {
      out_.text(item.fqn);
      value(item);
    }
    out_.end_dict();
  }
  void size(const Extents& sizes) {
    out_.global("torch", "Size");
    out_.begin_tuple();
    out_.integers(sizes);
    out_.end_tuple();
    out_.call();
  }
  static Extents shape_of(const Item& item) { return item.array->shape; }

  void properties(const Item& item) {
    out_.global(kMetadata, "TensorProperties");
    out_.begin_tuple();
    out_.end_tuple();
    out_.make();
    out_.begin_tuple();
    out_.global("torch", item.array->dtype == DType::kBF16 ? "bfloat16" : "float32");
    out_.global("torch.serialization", "_get_layout");
    out_.begin_tuple();
    out_.text("torch.strided");
    out_.end_tuple();
    out_.call();
    out_.boolean(false);  // requires_grad
    out_.global(kMetadata, "_MEM_FORMAT_ENCODING");
    out_.begin_tuple();
    out_.integer(0);
    out_.end_tuple();
    out_.call();
    out_.boolean(false);  // pin_memory
    out_.end_tuple();
    out_.build();
  }
  void about(const Item& item) {
    if (item.array == nullptr) {
      out_.global(kMetadata, "BytesStorageMetadata");
      out_.begin_tuple();
      out_.end_tuple();
      out_.make();
      return;
    }
    object(kMetadata, "TensorStorageMetadata", [&] {
      field("properties", [&] { properties(item); });
      field("size", [&] { size(shape_of(item)); });
      field("chunks", [&] {
        out_.begin_list();
        object(kMetadata, "ChunkStorageMetadata", [&] {
          field("offsets", [&] { size(Extents(shape_of(item).size(), 0)); });
          field("sizes", [&] { size(shape_of(item)); });
        });
        out_.end_list();
      });
    });
  }
  void path(const Item& item) {
    out_.begin_tuple();
    for (const std::string& key : item.path) out_.text(key);
    out_.end_tuple();
  }
  void places() {
    out_.begin_dict();
    for (const Item& item : items_) {
      object(kMetadata, "MetadataIndex", [&] {
        field("fqn", [&] { out_.text(item.fqn); });
        if (item.array == nullptr) return;
        field("index", [&] { out_.integer(0); });
        field("offset", [&] { size(Extents(shape_of(item).size(), 0)); });
      });
      object("torch.distributed.checkpoint.filesystem", "_StorageInfo", [&] {
        field("relative_path", [&] { out_.text(data_name(item.file)); });
        field("offset", [&] { out_.integer(item.offset); });
        field("length", [&] { out_.integer(item.bytes); });
      });
    }
    out_.end_dict();
  }

  const std::vector<Item>& items_;
  PickleWriter out_;
};

// As torch.distributed.checkpoint.state_dict.get_optimizer_state_dict has it.
void put_settings(PickleWriter& pickle, const CheckpointImage& image,
                  const std::vector<std::string>& order) {
  const AdamSettings adam = image.adam.value_or(AdamSettings{});
  pickle.begin_list();
  pickle.begin_dict();
  put_adam_settings(pickle, adam);
  put_adam_flags(pickle);
  pickle.text("decoupled_weight_decay");
  pickle.boolean(true);
  pickle.text("params");
  pickle.begin_list();
  for (const std::string& name : order) pickle.text(name);
  pickle.end_list();
  pickle.end_dict();
  pickle.end_list();
}

std::vector<Item> items_of(const CheckpointImage& image, const StoredArray& step) {
  std::vector<Item> items;
  const std::vector<std::string> order = definition_order(image);
  const auto tensor = [&](std::vector<std::string> path, const StoredArray& array) {
    std::string fqn;
    for (const std::string& key : path) fqn += (fqn.empty() ? "" : ".") + key;
    items.push_back(
        {.fqn = fqn, .path = std::move(path), .array = &array, .fill = [&array](TorchWriter& out) {
           out.tensor(array);
         }});
  };
  for (const std::string& name : order) tensor({"model", name}, image.params.at(name).weight);
  if (!image.has_state()) return items;
  for (const std::string& name : order) {
    const ImageParam& param = image.params.at(name);
    tensor({"optim", "state", name, "step"}, step);
    tensor({"optim", "state", name, "exp_avg"}, *param.exp_avg);
    tensor({"optim", "state", name, "exp_avg_sq"}, *param.exp_avg_sq);
  }
  items.push_back(
      {.fqn = kSettings,
       .path = {"optim", "param_groups"},
       .array = nullptr,
       .fill = [&image, order](TorchWriter& out) { put_settings(out.pickle, image, order); }});
  return items;
}

// A checkpoint's items and what they refer to.
struct DcpContents {
  StoredArray step;
  std::vector<Item> items;

  explicit DcpContents(const CheckpointImage& image)
      : step(number_array(static_cast<float>(image.step))), items(items_of(image, step)) {
    std::int64_t file = 0, end = 0;
    for (Item& item : items) {
      TorchWriter out;
      item.fill(out);
      item.bytes = out.count();
      if (end > 0 && end + item.bytes > kFileBytes) ++file, end = 0;
      item.file = file;
      item.offset = end;
      end += item.bytes;
    }
  }
};

// The data file of that number.
void write_data(const DcpContents& contents, std::int64_t number, const fs::path& path,
                std::int64_t window_bytes) {
  File file = File::create(path);
  for (const Item& item : contents.items) {
    if (item.file != number) continue;
    TorchWriter out;
    item.fill(out);
    const std::int64_t bytes = out.write(file, item.offset, window_bytes);
    TH_CHECK_EQ(bytes, item.bytes);
  }
}

}  // namespace

std::vector<OutputFile> dcp_files(const CheckpointImage& image) {
  const auto contents = std::make_shared<const DcpContents>(image);
  std::vector<OutputFile> files = config_output(image);
  files.push_back(text_output(".metadata", MetadataPickle(contents->items).text()));
  for (std::int64_t i = 0; i <= contents->items.back().file; ++i) {
    files.push_back({.name = data_name(i),
                     .bytes = kFileBytes,
                     .write = [contents, i](const fs::path& path, std::int64_t window_bytes) {
                       write_data(*contents, i, path, window_bytes);
                     }});
  }
  return files;
}

}  // namespace thimble

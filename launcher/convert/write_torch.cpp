#include "launcher/convert/output_files.h"
#include "launcher/convert/torch_writer.h"

namespace thimble {
namespace {

void put_weights(TorchWriter& out, const CheckpointImage& image,
                 const std::vector<std::string>& order) {
  PickleWriter& pickle = out.pickle;
  put_ordered_dict(pickle);
  pickle.begin_items();
  for (const std::string& name : order) {
    pickle.text(name);
    out.tensor(image.params.at(name).weight);
  }
  for (const auto& [alias, name] : image.aliases) {
    pickle.text(alias);
    out.tensor(image.params.at(name).weight);
  }
  pickle.end_items();
}

// As torch.optim.AdamW's state_dict() has it.
void put_group(PickleWriter& pickle, const AdamSettings& adam, std::size_t count) {
  pickle.begin_dict();
  put_adam_settings(pickle, adam);
  put_adam_flags(pickle);
  pickle.text("params");
  pickle.begin_list();
  for (std::size_t i = 0; i < count; ++i) pickle.integer(static_cast<std::int64_t>(i));
  pickle.end_list();
  pickle.end_dict();
}

void put_optimizer(TorchWriter& out, const CheckpointImage& image,
                   const std::vector<std::string>& order) {
  PickleWriter& pickle = out.pickle;
  pickle.begin_dict();
  pickle.text("state");
  pickle.begin_dict();
  for (std::size_t i = 0; i < order.size(); ++i) {
    const ImageParam& param = image.params.at(order[i]);
    pickle.integer(static_cast<std::int64_t>(i));
    pickle.begin_dict();
    pickle.text("step");
    out.scalar(static_cast<float>(image.step));
    pickle.text("exp_avg");
    out.tensor(*param.exp_avg);
    pickle.text("exp_avg_sq");
    out.tensor(*param.exp_avg_sq);
    pickle.end_dict();
  }
  pickle.end_dict();
  pickle.text("param_groups");
  pickle.begin_list();
  put_group(pickle, image.adam.value_or(AdamSettings{}), order.size());
  pickle.end_list();
  pickle.end_dict();
}

}  // namespace

std::vector<OutputFile> torch_files(const CheckpointImage& image, std::string name) {
  const auto fill = [&image](TorchWriter& out) {
    const std::vector<std::string> order = definition_order(image);
    if (!image.has_state()) {
      put_weights(out, image, order);
      return nullptr;
    }
    out.pickle.begin_dict();
    out.pickle.text("model");
    put_weights(out, image, order);
    out.pickle.text("optimizer");
    put_optimizer(out, image, order);
    out.pickle.text("step");
    out.pickle.integer(image.step);
    out.pickle.end_dict();
    return nullptr;
  };
  return {torch_output(std::move(name), 0, fill)};
}

}  // namespace thimble

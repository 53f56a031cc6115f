// What the Rust side needs of libtorch's C++ interface and tch does not bind: Gloo and the store that its processes
// meet at, and functions with a gradient of their own.
//
// libtorch_cpu.so holds Gloo, but its wheel leaves Gloo's headers out. ProcessGroupGloo.hpp names Gloo's classes only
// behind pointers, so these declarations are enough; build.rs puts empty files where it includes the headers.

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace gloo {
class Context {
 public:
  void setTimeout(std::chrono::milliseconds timeout);
};
namespace transport {
class Device;
class UnboundBuffer {
 public:
  virtual ~UnboundBuffer() = 0;
};
} // namespace transport
namespace rendezvous {
class Store {
 public:
  virtual ~Store() = default;
  virtual void set(const std::string& key, const std::vector<char>& value) = 0;
  virtual std::vector<char> get(const std::string& key) = 0;
  virtual void wait(const std::vector<std::string>& keys) = 0;
  virtual void wait(const std::vector<std::string>& keys, const std::chrono::milliseconds& timeout) = 0;
};
} // namespace rendezvous
} // namespace gloo

#define USE_C10D_GLOO
#include <ATen/ops/native_batch_norm_backward.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

namespace {

using torch::autograd::Node;
using torch::autograd::variable_list;

// Runs `body`; a C++ exception becomes a message in `error` (to be freed) and the value `failed`.
template <typename Value, typename Body>
Value guarded(char** error, Value failed, Body&& body) {
  try {
    return body();
  } catch (const c10::Error& e) {
    *error = strdup(e.what_without_backtrace());
  } catch (const std::exception& e) {
    *error = strdup(e.what());
  }
  return failed;
}

// The Rust side's gradient function: takes the output's gradient, gives one for each input (null for none), or a
// message. It uses `state` up.
using Backward = char* (*)(void* state, at::Tensor* gradient, at::Tensor** inputs, size_t count);
using Drop = void (*)(void* state);

class GradientFunction : public Node {
 public:
  GradientFunction(void* state, Backward backward, Drop drop) : state_(state), backward_(backward), drop_(drop) {}

  ~GradientFunction() override {
    release_variables();
  }

  void release_variables() override {
    if (void* state = std::exchange(state_, nullptr)) {
      drop_(state);
    }
  }

  std::string name() const override {
    return "GradientFunction";
  }

 protected:
  variable_list apply(variable_list&& gradients) override {
    void* state = std::exchange(state_, nullptr);
    TORCH_CHECK(state != nullptr, "the gradient of this graph was taken before");
    auto gradient = gradients[0].defined() ? gradients[0] : input_metadata(0).zeros_like();
    std::vector<at::Tensor*> inputs(num_outputs(), nullptr);
    std::unique_ptr<char, decltype(&std::free)> problem(
        backward_(state, new at::Tensor(std::move(gradient)), inputs.data(), inputs.size()), &std::free);
    variable_list result(inputs.size());
    for (size_t i = 0; i < inputs.size(); ++i) {
      std::unique_ptr<at::Tensor> owned(inputs[i]);
      if (owned) {
        result[i] = *owned;
      }
    }
    TORCH_CHECK(problem == nullptr, problem.get());
    return result;
  }

 private:
  void* state_;
  Backward backward_;
  Drop drop_;
};

} // namespace

extern "C" {

// Meets the others at `master`, where rank 0 keeps a store unless someone else does (`hosted`).
c10d::ProcessGroupGloo* semblance_gloo_new(
    const char* master,
    uint16_t port,
    bool hosted,
    const char* prefix,
    const char* interface,
    const char* own_address,
    int rank,
    int world,
    int64_t timeout_ms,
    char** error) {
  return guarded(error, static_cast<c10d::ProcessGroupGloo*>(nullptr), [&] {
    const std::chrono::milliseconds timeout(timeout_ms);
    c10d::TCPStoreOptions at;
    at.port = port;
    at.isServer = rank == 0 && !hosted;
    at.timeout = timeout;
    if (!hosted) {
      at.numWorkers = world;
    }
    auto store = c10::make_intrusive<c10d::TCPStore>(master, at);
    auto options = c10d::ProcessGroupGloo::Options::create(timeout);
    options->devices.push_back(
        *interface != '\0' ? c10d::ProcessGroupGloo::createDeviceForInterface(interface)
                           : c10d::ProcessGroupGloo::createDeviceForHostname(own_address));
    auto own = c10::make_intrusive<c10d::PrefixStore>(prefix, std::move(store));
    own->setTimeout(timeout);
    return c10::make_intrusive<c10d::ProcessGroupGloo>(std::move(own), rank, world, std::move(options)).release();
  });
}

void semblance_gloo_free(c10d::ProcessGroupGloo* group) {
  c10::intrusive_ptr<c10d::ProcessGroupGloo>::reclaim(group);
}

bool semblance_gloo_all_reduce(c10d::ProcessGroupGloo* group, const at::Tensor* tensor, char** error) {
  return guarded(error, false, [&] {
    std::vector<at::Tensor> tensors{*tensor};
    group->allreduce(tensors)->wait();
    return true;
  });
}

bool semblance_gloo_all_gather(
    c10d::ProcessGroupGloo* group,
    const at::Tensor* input,
    const at::Tensor* output,
    char** error) {
  return guarded(error, false, [&] {
    at::Tensor from = *input, to = *output;
    group->_allgather_base(to, from)->wait();
    return true;
  });
}

bool semblance_gloo_broadcast(c10d::ProcessGroupGloo* group, const at::Tensor* tensor, int root, char** error) {
  return guarded(error, false, [&] {
    std::vector<at::Tensor> tensors{*tensor};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    group->broadcast(tensors, options)->wait();
    return true;
  });
}

// `output` as a function of `inputs` whose gradient is `backward`'s; uses `state` up whatever happens.
at::Tensor* semblance_with_gradient(
    const at::Tensor* output,
    const at::Tensor* const* inputs,
    size_t count,
    void* state,
    Backward backward,
    Drop drop,
    char** error) {
  std::shared_ptr<GradientFunction> function(
      new GradientFunction(state, backward, drop), torch::autograd::deleteNode);
  return guarded(error, static_cast<at::Tensor*>(nullptr), [&] {
    variable_list from;
    for (size_t i = 0; i < count; ++i) {
      from.push_back(*inputs[i]);
    }
    auto result = output->detach();
    bool wanted = false;
    for (const auto& input : from) {
      wanted = wanted || input.requires_grad();
    }
    if (wanted && c10::GradMode::is_enabled()) {
      function->set_next_edges(torch::autograd::collect_next_edges(from));
      torch::autograd::set_history(result, function);
    }
    return new at::Tensor(std::move(result));
  });
}

// With constant statistics: the sum over each channel of `gradient` (into `sum`), and of its product with the normalised
// input (into `product`).
bool semblance_batch_norm_sums(
    const at::Tensor* gradient,
    const at::Tensor* input,
    const at::Tensor* weight,
    const at::Tensor* mean,
    const at::Tensor* var,
    double eps,
    at::Tensor** sum,
    at::Tensor** product,
    char** error) {
  return guarded(error, false, [&] {
    auto [unused, scale, shift] = at::native_batch_norm_backward(
        *gradient, *input, *weight, *mean, *var, {}, {}, /*train=*/false, eps, {false, true, true});
    auto first = std::make_unique<at::Tensor>(std::move(shift));
    *product = new at::Tensor(std::move(scale));
    *sum = first.release();
    return true;
  });
}

} // extern "C"

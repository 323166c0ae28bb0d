// Detect objects with masks: detect MODEL.xml PHOTO MASKS.png
#include <iostream>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <openvino/openvino.hpp>
#include <sstream>
using namespace std;

int main(int, char** argv) {
    ov::Core core;
    auto model = core.read_model(argv[1]);
    auto meta = [&](string name) { return model->get_rt_info<string>(name); };
    istringstream scale(meta("resize.scale")), lines(meta("classes"));
    vector<string> classes;
    for (string line; getline(lines, line);) classes.push_back(line);

    cv::Mat image = cv::imread(argv[2]), resized;  // BGR, turned by its EXIF orientation
    double width = image.cols, height = image.rows, w, h;
    scale >> w >> h;
    if (meta("resize.rule") == "keep_ratio") {
        double factor = min(max(w, h) / max(width, height), min(w, h) / min(width, height));
        w = int(width * factor + 0.5), h = int(height * factor + 0.5);
    } else CV_Assert(meta("resize.rule") == "exact");
    CV_Assert(meta("resize.interpolation") == "bilinear" && meta("resize.backend") == "cv2");
    CV_Assert(meta("crop.rule") == "none" && meta("pad.rule") == "none");
    CV_Assert(min(w, h) >= stoi(meta("input.min_size")));
    cv::resize(image, resized, cv::Size(w, h));

    ov::preprocess::PrePostProcessor steps(model);  // takes 8 bits and channels last
    steps.input().tensor().set_element_type(ov::element::u8).set_layout("NHWC");
    steps.input().model().set_layout("NCHW");
    core.set_property("CPU", ov::hint::inference_precision(ov::element::f32));
    auto request = core.compile_model(steps.build(), "CPU").create_infer_request();
    request.set_input_tensor({ov::element::u8, {1, size_t(h), size_t(w), 3}, resized.data});
    request.infer();

    auto boxes = request.get_tensor("boxes"), scores = request.get_tensor("scores");
    auto labels = request.get_tensor("labels"), masks = request.get_tensor("masks");
    cv::Mat painted = cv::Mat::zeros(image.size(), CV_16U), mask;  // the object at each pixel
    for (size_t i = boxes.get_shape()[0]; i-- > 0;) {  // the best object last, on top
        cv::Vec4d box = cv::Vec4f(boxes.data<float>() + 4 * i);
        box = box.mul({width / w, height / h, width / w, height / h});
        // Spread the 28 x 28 probabilities over the box, with half-pixel centres.
        double sx = (box[2] - box[0]) / 28, sy = (box[3] - box[1]) / 28;
        cv::Matx23d to_image(sx, 0, box[0] + sx / 2 - 0.5, 0, sy, box[1] + sy / 2 - 0.5);
        cv::Mat probabilities(28, 28, CV_32F, masks.data<float>() + 28 * 28 * i);
        cv::warpAffine(probabilities, mask, to_image, image.size());
        painted.setTo(i + 1, mask >= stod(meta("thresholds.mask_thr")));
        cout << classes[labels.data<int64_t>()[i]] << " " << scores.data<float>()[i] << box << "\n";
    }
    cv::imwrite(argv[3], painted);
}
